package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
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

// Permanent reports whether an error of Open, Log or Compacted stays until somebody changes a setting, or is
// that of a context which was cancelled. Any other error may end when Kafka answers.
func Permanent(err error) bool { return permanent(err) }

// permanent reports whether an error at the start stays until somebody changes a
// setting.
func permanent(err error) bool {
	var s *settingError
	if errors.As(err, &s) || untrusted(err) || errors.Is(err, context.Canceled) {
		return true
	}
	if errors.Is(err, envelope.ErrClosed) {
		return true
	}
	for _, e := range []kafka.Error{
		kafka.SASLAuthenticationFailed, kafka.UnsupportedSASLMechanism, kafka.IllegalSASLState,
		kafka.TopicAuthorizationFailed, kafka.GroupAuthorizationFailed, kafka.ClusterAuthorizationFailed,
		kafka.InvalidReplicationFactor, kafka.InvalidPartitionNumber, kafka.InvalidConfiguration,
		kafka.PolicyViolation, kafka.InvalidTopic, kafka.UnsupportedVersion,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// untrusted reports whether TLS failed because of a certificate or a setting.
func untrusted(err error) bool {
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	// The other side's alert has a type that crypto/tls does not export.
	var remote *net.OpError
	if errors.As(err, &remote) && remote.Op == "remote error" {
		return true
	}
	return errors.As(err, &verify) || errors.As(err, &record) || errors.As(err, &alert) ||
		errors.As(err, &unknown) || errors.As(err, &host)
}

// explain adds to err what an operator can do.
func explain(err error) error {
	var record tls.RecordHeaderError
	var dns *net.DNSError
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
	case errors.Is(err, kafka.TopicAuthorizationFailed), errors.Is(err, kafka.GroupAuthorizationFailed),
		errors.Is(err, kafka.ClusterAuthorizationFailed):
		advice = "allow imgo's user (kafka.user) to create, describe, read and write topics, " +
			"and to read groups, that begin with kafka.prefix"
	case errors.As(err, &record):
		advice = "the broker does not speak TLS there: check kafka.tls and the port"
	case untrusted(err):
		advice = "TLS failed: check kafka.tls_ca, that the certificate names the host in kafka.brokers, " +
			"and kafka.tls_cert if Kafka asks for one"
	case errors.As(err, &dns):
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
	for _, e := range []kafka.Error{
		kafka.TopicAuthorizationFailed, kafka.ClusterAuthorizationFailed,
		kafka.InvalidTopic, kafka.InvalidTimestamp, kafka.UnsupportedForMessageFormat, kafka.PolicyViolation,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// tooLarge reports whether a batch is too large for Kafka.
func tooLarge(err error) bool {
	return errors.Is(err, kafka.MessageSizeTooLarge) || errors.Is(err, kafka.RecordListTooLarge)
}
