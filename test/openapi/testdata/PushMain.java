import java.util.List;
import java.util.Map;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.PushApi;
import org.openapitools.client.model.Batch;
import org.openapitools.client.model.Push;
import org.openapitools.client.model.PushResult;

/** Pushes with the client that openapi-generator makes for Java: PushMain URL KEY. */
public class PushMain {
  public static void main(String[] args) throws Exception {
    ApiClient client = new ApiClient();
    client.updateBaseUri(args[0]);
    client.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + args[1]));
    PushApi api = new PushApi(client);

    PushResult one = api.push(new Push().user("123").body(Map.of("test", 1)), null);
    check(one.getUser().equals("123") && Long.parseLong(one.getId()) > 0 && !one.getDuplicate(), one);
    api.push(new Push().room("lobby").bodyText("hello"), null);
    var batch = api.pushBatch(new Batch().pushes(List.of(Map.of("user", "123", "body", 1), Map.of("user", "", "body", 2))));
    check(batch.getResults().get(0).getStatus() == 202 && batch.getResults().get(1).getStatus() == 400, batch);
    try {
      api.push(new Push().user("123"), null);
      check(false, "a push without a body was accepted");
    } catch (ApiException e) {
      check(e.getCode() == 400 && e.getResponseBody().contains("\"field\":\"body\""), e);
    }
  }

  static void check(boolean ok, Object what) {
    if (!ok) {
      throw new AssertionError(what);
    }
  }
}
