package coordgrpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/sealed"
)

// Option configures [New].
type Option func(*settings) error

type settings struct {
	tenant      func(ctx context.Context, method string) (string, error)
	resource    func(ctx context.Context, method string, req any) string
	fingerprint func(ctx context.Context, method string, req any) ([]byte, error)
	methods     []string // nil: all but gRPC's own
	required    bool
	validate    func(string) error
	anyAge      bool
	store       func(codes.Code) bool
	types       Types
	wait        time.Duration
	lease       time.Duration
	open        bool // where Redis is away
	detach      bool
	quarantine  bool
	compress    int
	keys        *sealed.Keys
	observe     func(ctx context.Context, method, outcome string, reason error)
}

// Tenant says on whose behalf a call is made. Answers are replayed to the same tenant only: take it from what was authenticated.
// An error, or an empty name, is answered with [ReasonTenantUnknown], and the handler does not run.
func Tenant(of func(ctx context.Context, fullMethod string) (string, error)) Option {
	return func(s *settings) error {
		if of == nil {
			return errors.New("Tenant needs a function; SingleTenant() is for services that serve everybody alike")
		}
		return s.setTenant(of)
	}
}

// SingleTenant says that all callers may see each other's answers.
func SingleTenant() Option {
	return func(s *settings) error {
		return s.setTenant(func(context.Context, string) (string, error) { return "*", nil })
	}
}

func (s *settings) setTenant(of func(context.Context, string) (string, error)) error {
	if s.tenant != nil {
		return errors.New("Tenant and SingleTenant exclude each other; give one of them, once")
	}
	s.tenant = of
	return nil
}

// Resource says what a call writes to, see [coordinator.Key]: calls for one resource run one at a time and their tokens rise
// together. Derive it from what every retry carries; empty is none.
func Resource(of func(ctx context.Context, fullMethod string, req any) string) Option {
	return func(s *settings) error { s.resource = of; return given("Resource", of != nil) }
}

// Fingerprint says what makes a request the same as an earlier one, instead of its deterministic protobuf bytes. The method is
// compared in any case. Needed where requests are no protobuf messages, or where binaries of different versions write the same
// message in different bytes. An error is answered with [ReasonMisconfigured].
func Fingerprint(of func(ctx context.Context, fullMethod string, req any) ([]byte, error)) Option {
	return func(s *settings) error { s.fingerprint = of; return given("Fingerprint", of != nil) }
}

func given(name string, is bool) error {
	if !is {
		return fmt.Errorf("%s needs a function; leave it out for the default", name)
	}
	return nil
}

// Methods says which unary methods are covered: "/package.Service/Method", or "/package.Service/" for all of a service. The default
// are all but those of grpc.health, grpc.reflection and grpc.channelz. Others pass through, with a key too.
func Methods(names ...string) Option {
	return func(s *settings) error {
		if len(names) == 0 {
			return errors.New("Methods needs names; leave it out for all")
		}
		for _, name := range names {
			if parts := strings.Split(name, "/"); len(parts) != 3 || parts[0] != "" || parts[1] == "" {
				return fmt.Errorf("a method is written /package.Service/Method, and a service /package.Service/, not %q", name)
			}
		}
		s.methods = append(s.methods, names...)
		return nil
	}
}

// RequireKey refuses calls without a key, [ReasonKeyMissing]; by default they pass through, since reads need none.
func RequireKey() Option {
	return func(s *settings) error { s.required = true; return nil }
}

// ValidateKey refuses keys for which check returns an error, whose text goes into the answer, [ReasonKeyMalformed]. See [UUIDOnly].
func ValidateKey(check func(key string) error) Option {
	return func(s *settings) error { s.validate = check; return given("ValidateKey", check != nil) }
}

// UUIDOnly is a check for [ValidateKey]: a UUID in its usual form of 36 characters.
func UUIDOnly(key string) error {
	if len(key) != 36 || uuid.Validate(key) != nil {
		return errors.New("it is not a UUID; send one in its usual form of 36 characters, version 7 best")
	}
	return nil
}

// AnyAge does not look at when a key was made. By default a UUIDv7 that is older than answers are kept, and unknown, is
// [ReasonKeyExpired] instead of a second run.
func AnyAge() Option {
	return func(s *settings) error { s.anyAge = true; return nil }
}

// StoreFinal is the default of [Store]. It keeps all statuses but UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED,
// INTERNAL and UNKNOWN: with these the operation has not taken place, or may do otherwise when it is tried again.
func StoreFinal(code codes.Code) bool {
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Internal, codes.Unknown:
		return false
	}
	return true
}

// Store says which codes of a handler's errors are final: such a status is kept, with its details, and replayed. After others the
// key is released, and a retry runs the handler again. Responses are always kept. The default is [StoreFinal].
func Store(final func(codes.Code) bool) Option {
	return func(s *settings) error { s.store = final; return given("Store", final != nil) }
}

// Types finds the type of a message by its name.
type Types interface {
	FindMessageByName(name protoreflect.FullName) (protoreflect.MessageType, error)
}

// ResponseTypes says where the types of stored responses are found, by their names; the default is what the program has linked
// in, [protoregistry.GlobalTypes], which is right unless messages are made at run time.
func ResponseTypes(t Types) Option {
	return func(s *settings) error {
		if s.types = t; t == nil {
			return errors.New("ResponseTypes needs a registry; leave it out for the default")
		}
		return nil
	}
}

// Wait has duplicates wait for the first one's answer, for d at most and within their own deadline, instead of answering
// [ReasonInProgress] at once.
func Wait(d time.Duration) Option {
	return func(s *settings) error {
		if s.wait = d; d < 0 {
			return fmt.Errorf("Wait takes a time, not %v", d)
		}
		return nil
	}
}

// LeaseFor sets the leases of these methods instead of [coordinator.WithLease]'s: at least 100ms, at most the maximum lifetime.
func LeaseFor(d time.Duration) Option {
	return func(s *settings) error {
		if s.lease = d; d < 100*time.Millisecond {
			return fmt.Errorf("LeaseFor takes 100ms at least, not %v", d)
		}
		return nil
	}
}

// PassWhenUnavailable lets calls through while Redis cannot be asked: they are answered, with idempotency-unprotected: true in the
// header metadata, and may take effect twice. By default they get [ReasonUnavailable].
func PassWhenUnavailable() Option {
	return func(s *settings) error { s.open = true; return nil }
}

// DetachHandler lets the handler go on when its caller has gone, or its deadline has passed: its context ends with the lease only.
// Without it, a handler that stops amid its work and answers with an error is run again by the retry.
func DetachHandler() Option {
	return func(s *settings) error { s.detach = true; return nil }
}

// Quarantine does not run a handler again whose process died, or lost its lease, amid its work: such keys are [ReasonUncertain]
// until somebody has found out what took place and calls [coordinator.Coordinator.Resolve], or the retention is over.
func Quarantine() Option {
	return func(s *settings) error { s.quarantine = true; return nil }
}

// Compress compresses stored answers of more than this many bytes (zstd).
func Compress(above int) Option {
	return func(s *settings) error {
		if s.compress = above; above < 0 {
			return fmt.Errorf("Compress takes a size from 0 on, not %d", above)
		}
		return nil
	}
}

// Encryption is how stored answers are encrypted (AES-256-GCM).
type Encryption struct {
	// Current names the key that answers are encrypted with from now on.
	Current string
	// Keys has 32 bytes under each name. Keep a key until all that was encrypted with it is older than the retention. Do not
	// encrypt more than 2^32 answers with one.
	Keys map[string][]byte
	// AllowPlain replays answers that were stored before they were encrypted. Without it they are [ReasonAnswerUnreadable]. Somebody
	// who can write to Redis can make such answers, so leave it out once the retention has passed.
	AllowPlain bool
}

// Encrypt encrypts stored answers. Each is bound to its key: moved to another one it is [ReasonAnswerUnreadable], as it is with
// the wrong key.
func Encrypt(e Encryption) Option {
	return func(s *settings) error {
		s.keys = &sealed.Keys{Current: e.Current, Ring: e.Keys, AllowPlain: e.AllowPlain}
		return nil
	}
}

// The outcomes that [Observe] is told, beside the reasons.
const (
	OutcomePassed      = "passed"       // no key, or a method that is not covered
	OutcomeExecuted    = "executed"     // the handler ran, and its answer is kept
	OutcomeReleased    = "released"     // the handler ran, and a retry runs it again
	OutcomeUnkept      = "unkept"       // the handler ran; its answer was too large, or no protobuf message
	OutcomeUnstored    = "unstored"     // the handler ran; that could not be stored
	OutcomePanicked    = "panicked"     // the handler panicked, and a retry runs it again
	OutcomeReplayed    = "replayed"     // the stored answer was given
	OutcomeUnprotected = "unprotected"  // passed through because Redis was away
	OutcomeStream      = "stream"       // a stream, which passes through
	OutcomeKeyedStream = "keyed_stream" // a stream that came with a key, which does nothing for it
)

// Observe is told what became of each call, when it is answered: an outcome or a [Reason], and an error where there is one, for
// logs. It is called on the call's path and from many goroutines at once.
func Observe(with func(ctx context.Context, fullMethod, outcome string, err error)) Option {
	return func(s *settings) error { s.observe = with; return given("Observe", with != nil) }
}

func newSettings(opts []Option) (*settings, error) {
	s := &settings{
		store: StoreFinal, types: protoregistry.GlobalTypes, compress: -1,
		observe: func(context.Context, string, string, error) {},
	}
	for _, opt := range opts {
		if opt == nil {
			return nil, invalid(errors.New("an option is nil; leave it out"))
		}
		if err := opt(s); err != nil {
			return nil, invalid(err)
		}
	}
	if s.tenant == nil {
		return nil, invalid(errors.New("say whose answers are whose: Tenant(...), or SingleTenant() where all callers may see each other's"))
	}
	return s, nil
}

func invalid(err error) error { return fmt.Errorf("coordgrpc: %w: %w", coordinator.ErrInvalid, err) }
