package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"

	"github.com/segmentio/kafka-go"

	"imgo/envelope"
)

func errClosed(what string) error {
	return envelope.Errorf(envelope.CodeClosed, "%s was closed", what)
}

// settingError is an error that only an operator can correct. Trying again does not
// help.
type settingError struct{ text string }

func (e *settingError) Error() string { return e.text }

func settingErrorf(format string, args ...any) error {
	return &settingError{fmt.Sprintf(format, args...)}
}

// Permanent reports whether an error of Open, Log or Compacted stays until somebody changes a setting or makes a topic, or is
// that of a context which was cancelled. Any other error may end when Kafka answers.
func Permanent(err error) bool {
	return isA[*settingError](err) || untrusted(err) || errors.Is(err, context.Canceled) || errors.Is(err, envelope.ErrClosed) ||
		errors.Is(err, envelope.ErrNotFound) || isOne(err,
		kafka.SASLAuthenticationFailed, kafka.UnsupportedSASLMechanism, kafka.IllegalSASLState,
		kafka.TopicAuthorizationFailed, kafka.GroupAuthorizationFailed, kafka.ClusterAuthorizationFailed,
		kafka.InvalidReplicationFactor, kafka.InvalidPartitionNumber, kafka.InvalidConfiguration,
		kafka.PolicyViolation, kafka.InvalidTopic, kafka.UnsupportedVersion,
	)
}

// isA reports whether an error of type E is in the chain of err.
func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// isOne reports whether one of some errors is in the chain of err.
func isOne(err error, of ...kafka.Error) bool {
	return slices.ContainsFunc(of, func(e kafka.Error) bool { return errors.Is(err, e) })
}

// untrusted reports whether TLS failed because of a certificate or a setting.
func untrusted(err error) bool {
	// The other side's alert has a type that crypto/tls does not export.
	if remote, ok := errors.AsType[*net.OpError](err); ok && remote.Op == "remote error" {
		return true
	}
	return isA[*tls.CertificateVerificationError](err) || isA[tls.RecordHeaderError](err) || isA[tls.AlertError](err) ||
		isA[x509.UnknownAuthorityError](err) || isA[x509.HostnameError](err)
}

// explain adds to err what an operator can do.
func explain(err error) error {
	var advice string
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kafka.SASLAuthenticationFailed):
		advice = "the user or the password is wrong: check kafka.user and kafka.password"
	case errors.Is(err, kafka.UnsupportedSASLMechanism):
		advice = "this Kafka does not take that kind of login: check kafka.sasl"
	case errors.Is(err, kafka.IllegalSASLState):
		advice = "this Kafka wants no login, or another: check kafka.sasl and the broker's listener"
	case isOne(err, kafka.TopicAuthorizationFailed, kafka.GroupAuthorizationFailed, kafka.ClusterAuthorizationFailed):
		advice = "allow imgo's user (kafka.user) to create, describe, read and write topics, " +
			"and to read groups, that begin with kafka.prefix"
	case isA[tls.RecordHeaderError](err):
		advice = "the broker does not speak TLS there: check kafka.tls and the port"
	case untrusted(err):
		advice = "TLS failed: check kafka.tls_ca, that the certificate names the host in kafka.brokers, " +
			"and kafka.tls_cert if Kafka asks for one"
	case isA[*net.DNSError](err):
		advice = "the name is not known: check kafka.brokers, and the broker's advertised.listeners"
	case errors.Is(err, syscall.ECONNREFUSED):
		advice = "nothing listens there: check that Kafka runs, kafka.brokers, and the broker's advertised.listeners"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		advice = "the broker hangs up: check whether it wants TLS (kafka.tls) or a login (kafka.sasl)"
	case errors.Is(err, context.DeadlineExceeded):
		advice = "it does not answer: check kafka.brokers, kafka.tls, firewalls, and the broker's advertised.listeners"
	default:
		return err
	}
	return fmt.Errorf("%w (%s)", err, advice)
}

// refused reports whether Kafka refused an append for good.
func refused(err error) bool {
	return isOne(err, kafka.TopicAuthorizationFailed, kafka.ClusterAuthorizationFailed,
		kafka.InvalidTopic, kafka.InvalidTimestamp, kafka.UnsupportedForMessageFormat, kafka.PolicyViolation)
}

// tooLarge reports whether a batch is too large for Kafka.
func tooLarge(err error) bool {
	return isOne(err, kafka.MessageSizeTooLarge, kafka.RecordListTooLarge)
}
