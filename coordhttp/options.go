package coordhttp

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/sealed"
)

// Option configures [New].
type Option func(*settings) error

type settings struct {
	problems

	tenant     func(*http.Request) (string, error)
	scope      func(*http.Request) string
	resource   func(*http.Request) string
	methods    map[string]bool // nil: all but the safe ones
	header     string
	quotedOnly bool
	required   bool
	validate   func(string) error
	anyAge     bool
	headers    []string // in the fingerprint
	canonical  bool
	maxBody    int64
	maxAnswer  int
	hold       bool
	profile    Profile
	wait       time.Duration
	patience   time.Duration
	open       bool // where Redis is away
	detach     bool
	quarantine bool
	compress   int
	keys       *sealed.Keys
	observe    func(*http.Request, string, error)
	background func(func())
}

// Profile is how answers are treated and told. Start from [Draft07] or [Stripe] and change what is to be otherwise.
type Profile struct {
	// Store says whether an answer with this status is final: it is kept and replayed. Otherwise the key is released, and a retry
	// runs the handler again.
	Store func(status int) bool
	// ReplayedHeader is "true" in replays.
	ReplayedHeader string
	// Status overrides the statuses of problems.
	Status map[Kind]int
}

// Draft07 follows draft-ietf-httpapi-idempotency-key-header-07. It keeps answers with 2xx, 3xx and 4xx except 408, 409, 423, 425
// and 429: with these and with 5xx the operation has not taken place, or may do otherwise when it is tried again.
func Draft07() Profile {
	return Profile{ReplayedHeader: "Idempotency-Replayed", Store: func(status int) bool {
		switch status {
		case http.StatusRequestTimeout, http.StatusConflict, http.StatusLocked, http.StatusTooEarly, http.StatusTooManyRequests:
			return false
		}
		return status >= 200 && status < 500
	}}
}

// Stripe does as Stripe's API: every answer of a handler is kept, 500 too, and a key with another payload is answered with 400.
func Stripe() Profile {
	return Profile{
		ReplayedHeader: "Idempotent-Replayed",
		Store:          func(int) bool { return true },
		Status:         map[Kind]int{KindKeyReused: http.StatusBadRequest, KindKeyExpired: http.StatusBadRequest},
	}
}

// Tenant says on whose behalf a request is made. Answers are replayed to the same tenant only: take it from what was
// authenticated. An error, or an empty name, is answered with [KindTenantUnknown], and the handler does not run.
func Tenant(of func(*http.Request) (string, error)) Option {
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
		return s.setTenant(func(*http.Request) (string, error) { return "*", nil })
	}
}

func (s *settings) setTenant(of func(*http.Request) (string, error)) error {
	if s.tenant != nil {
		return errors.New("Tenant and SingleTenant exclude each other; give one of them, once")
	}
	s.tenant = of
	return nil
}

// Scope says which operation a request is for, instead of its method and route pattern, or path where no pattern has
// matched yet. Keys of different scopes, or of different tenants, have nothing to do with each other.
func Scope(of func(*http.Request) string) Option {
	return func(s *settings) error { s.scope = of; return given("Scope", of != nil) }
}

// Resource says what a request writes to, see [coordinator.Key]: requests for one resource run one at a time and their tokens
// rise together. Derive it from what every retry carries; empty is none.
func Resource(of func(*http.Request) string) Option {
	return func(s *settings) error { s.resource = of; return given("Resource", of != nil) }
}

func given(name string, is bool) error {
	if !is {
		return fmt.Errorf("%s needs a function; leave it out for the default", name)
	}
	return nil
}

// Methods says which methods are covered; the default are all but GET, HEAD, OPTIONS and TRACE. Others pass through, with a key too.
func Methods(names ...string) Option {
	return func(s *settings) error {
		if len(names) == 0 {
			return errors.New("Methods needs names; leave it out for all that are not safe")
		}
		s.methods = map[string]bool{}
		for _, name := range names {
			if name == "" || strings.ToUpper(name) != name {
				return fmt.Errorf("a method is written in capitals, not %q", name)
			}
			if name == http.MethodHead {
				return errors.New("Methods does not take HEAD, whose answers have nothing to keep")
			}
			s.methods[name] = true
		}
		return nil
	}
}

// Header sets the name of the key's header; the default is Idempotency-Key.
func Header(name string) Option {
	return func(s *settings) error {
		if !isToken(name) {
			return fmt.Errorf("Header takes a header's name, not %q", name)
		}
		s.header = http.CanonicalHeaderKey(name)
		return nil
	}
}

// RequireKey refuses requests without a key, [KindKeyMissing]; by default they pass through.
func RequireKey() Option {
	return func(s *settings) error { s.required = true; return nil }
}

// QuotedOnly refuses keys that are not a string of RFC 9651, in double quotes.
func QuotedOnly() Option {
	return func(s *settings) error { s.quotedOnly = true; return nil }
}

// ValidateKey refuses keys for which check returns an error, whose text goes into the answer, [KindKeyMalformed]. See [UUIDOnly].
func ValidateKey(check func(key string) error) Option {
	return func(s *settings) error { s.validate = check; return given("ValidateKey", check != nil) }
}

// AnyAge does not look at when a key was made. By default a UUIDv7 that is older than answers are kept, and unknown, is
// [KindKeyExpired] instead of a second run.
func AnyAge() Option {
	return func(s *settings) error { s.anyAge = true; return nil }
}

// FingerprintHeaders adds headers to what makes a request the same as an earlier one, beside method, path, query and body. "Host" is
// what the client has called the service.
func FingerprintHeaders(names ...string) Option {
	return func(s *settings) error {
		for _, name := range names {
			if !isToken(name) {
				return fmt.Errorf("FingerprintHeaders takes headers' names, not %q", name)
			}
			s.headers = append(s.headers, http.CanonicalHeaderKey(name))
		}
		return nil
	}
}

// CanonicalJSON compares JSON bodies by their content (RFC 8785): the order of fields and white space make no difference.
func CanonicalJSON() Option {
	return func(s *settings) error { s.canonical = true; return nil }
}

// MaxBody sets how long a request's body may be, in bytes: the default is 1 MiB. Longer ones are [KindBodyTooLarge].
func MaxBody(bytes int64) Option {
	return func(s *settings) error { s.maxBody = bytes; return atLeastOne("MaxBody", bytes) }
}

// MaxAnswer sets how long an answer's body may be to be kept, in bytes: the default is 512 KiB, at most 32 MiB. Longer ones are
// sent to the first caller as they come, and retries get [KindNotReplayable]. It has to fit into [coordinator.WithMaxPayload],
// with the headers.
func MaxAnswer(bytes int) Option {
	return func(s *settings) error {
		if s.maxAnswer = bytes; bytes > 32<<20 {
			return fmt.Errorf("MaxAnswer takes 32 MiB at most, not %d bytes; keep large answers elsewhere and answer with a reference", bytes)
		}
		return atLeastOne("MaxAnswer", int64(bytes))
	}
}

func atLeastOne(name string, n int64) error {
	if n < 1 {
		return fmt.Errorf("%s takes 1 byte at least, not %d", name, n)
	}
	return nil
}

// WriteTimeout sets how long a client may take to read the next piece, of 32 KiB at most, of an answer that is sent as it comes (see
// [MaxAnswer]): the default is 30 s. The lease is held meanwhile. After that the client counts as gone and its connection ends; what the
// handler has done is kept as done. With http.Server.WriteTimeout that one holds.
func WriteTimeout(d time.Duration) Option {
	return func(s *settings) error {
		if s.patience = d; d <= 0 {
			return fmt.Errorf("WriteTimeout takes a time, not %v", d)
		}
		return nil
	}
}

// HoldStreams holds back what handlers flush, so that such answers are kept too, up to [MaxAnswer]. The client gets them
// when the handler has returned.
func HoldStreams() Option {
	return func(s *settings) error { s.hold = true; return nil }
}

// WithProfile sets how answers are treated; the default is [Draft07].
func WithProfile(p Profile) Option {
	return func(s *settings) error {
		if p.Store == nil || !isToken(p.ReplayedHeader) {
			return errors.New("a Profile needs Store and ReplayedHeader; start from Draft07() or Stripe()")
		}
		for kind, status := range p.Status {
			if _, there := sorts[kind]; !there || status < 400 || status > 599 {
				return fmt.Errorf("Profile.Status takes kinds of problems with 400 to 599, not %q with %d", kind, status)
			}
		}
		p.Status = maps.Clone(p.Status)
		s.profile = p
		return nil
	}
}

// Wait has duplicates wait for the first one's answer, for d at most, instead of answering [KindInProgress] at once.
func Wait(d time.Duration) Option {
	return func(s *settings) error {
		if s.wait = d; d < 0 {
			return fmt.Errorf("Wait takes a time, not %v", d)
		}
		return nil
	}
}

// PassWhenUnavailable lets requests through while Redis cannot be asked: they are answered, with Idempotency-Unprotected: true,
// and may take effect twice. By default they get [KindUnavailable]; so do requests whose claims or outcomes the replicas of
// [coordinator.WithReplicas] do not confirm, in either case.
func PassWhenUnavailable() Option {
	return func(s *settings) error { s.open = true; return nil }
}

// DetachHandler lets the handler go on when its client has gone: its context ends with the lease only, and writes to a client that is
// not there succeed. Without it, a handler that stops amid its work and answers with an error is run again by the retry; so is one
// that has finished, but has written nothing when its client has gone: it cannot be told from one that has stopped. Detach it, or
// write a header where the work is done.
func DetachHandler() Option {
	return func(s *settings) error { s.detach = true; return nil }
}

// Quarantine does not run a handler again whose process died, or lost its lease, amid its work: such keys are [KindUncertain] until somebody has found
// out what took place and calls [coordinator.Coordinator.Resolve], or the retention is over.
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
	// AllowPlain replays answers that were stored before they were encrypted. Without it they are [KindAnswerUnreadable]. Somebody who can
	// write to Redis can make such answers, so leave it out once the retention has passed.
	AllowPlain bool
}

// Encrypt encrypts stored answers. Each is bound to its key: moved to another one it is [KindAnswerUnreadable], as it is with
// the wrong key.
func Encrypt(e Encryption) Option {
	return func(s *settings) error {
		s.keys = &sealed.Keys{Current: e.Current, Ring: e.Keys, AllowPlain: e.AllowPlain}
		return nil
	}
}

// ProblemBase sets the URI of the page that describes the problems; each one's type is this and its kind as the fragment.
func ProblemBase(uri string) Option {
	return func(s *settings) error { s.base = strings.TrimSuffix(uri, "#"); return nil }
}

// DescribedBy adds a Link with rel="describedby" to problems: where the service says how its keys work.
func DescribedBy(uri string) Option {
	return func(s *settings) error {
		if s.described = uri; strings.ContainsAny(uri, "<>\r\n ") {
			return fmt.Errorf("DescribedBy takes a URI, not %q", uri)
		}
		return nil
	}
}

// Problems sets how problems are written; the default is application/problem+json.
func Problems(write ProblemWriter) Option {
	return func(s *settings) error { s.write = write; return given("Problems", write != nil) }
}

// The outcomes that [Observe] is told, beside the kinds of problems.
const (
	OutcomePassed      = "passed"      // no key, or a method that is not covered
	OutcomeExecuted    = "executed"    // the handler ran, and its answer is kept
	OutcomeReleased    = "released"    // the handler ran, and a retry runs it again
	OutcomeUnkept      = "unkept"      // the handler ran; its answer was streamed or too long
	OutcomeUnstored    = "unstored"    // the handler ran; that could not be stored
	OutcomePanicked    = "panicked"    // the handler panicked, and a retry runs it again
	OutcomeReplayed    = "replayed"    //
	OutcomeGone        = "gone"        // the client went away, or its time was over, before its key was claimed
	OutcomeUnprotected = "unprotected" // passed through because Redis was away
)

// Observe is told what became of each request, when it is answered: an outcome or a kind of problem, and the reason where there is
// one, for logs. It is called on the request's path and from many goroutines at once.
func Observe(with func(r *http.Request, outcome string, reason error)) Option {
	return func(s *settings) error { s.observe = with; return given("Observe", with != nil) }
}

// Background sets how to run what goes on after a request is answered, while Redis is away: storing its answer, which ends with its
// lease or with the coordinator's Close, and giving a claim back, which ends within a second. The default is a goroutine for each. A
// program that waits for them before it closes the coordinator counts them.
func Background(run func(work func())) Option {
	return func(s *settings) error { s.background = run; return given("Background", run != nil) }
}

func newSettings(opts []Option) (*settings, error) {
	s := &settings{
		problems: problems{base: defaultProblems, write: WriteProblem},
		header:   "Idempotency-Key", maxBody: 1 << 20, maxAnswer: 512 << 10, profile: Draft07(), compress: -1,
		patience:   30 * time.Second,
		observe:    func(*http.Request, string, error) {},
		background: func(work func()) { go work() },
	}
	for _, opt := range opts {
		if opt == nil {
			return nil, invalid(errors.New("an option is nil; leave it out"))
		}
		if err := opt(s); err != nil {
			return nil, invalid(err)
		}
	}
	s.problems.status = s.profile.Status
	return s, nil
}

// isToken says whether a header may have this name (RFC 9110).
func isToken(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(c rune) bool {
		return c <= ' ' || c > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
	})
}

func invalid(err error) error { return fmt.Errorf("coordhttp: %w: %w", coordinator.ErrInvalid, err) }

// UUIDOnly is a check for [ValidateKey]: a UUID in its usual form of 36 characters.
func UUIDOnly(key string) error {
	if !isUUID(key) {
		return errors.New("it is not a UUID; send one in its usual form of 36 characters, version 7 best")
	}
	return nil
}
