/** The error of a call to the HTTP API, and of a webhook. */
export class PushError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{ status?: number, field?: string, server?: string, cause?: unknown }} [details]
   */
  constructor(code, message, { status = 0, field, server, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'PushError';
    /**
     * The code of the server, such as `invalid` or `rate_limited`. Or, without an answer: `unreachable`
     * (the call had no effect), `lost` and `timeout` (the effect is unknown). `signature` is that of a
     * webhook.
     * @readonly
     */
    this.code = code;
    /**
     * The HTTP status, or 0 without an answer.
     * @readonly
     */
    this.status = status;
    /**
     * The field of the request that is wrong.
     * @readonly
     */
    this.field = field;
    /**
     * The server that answered, or that did not.
     * @readonly
     */
    this.server = server;
  }
}
