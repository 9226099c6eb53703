package coordhttp

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Kind is a sort of problem: the fragment of its type URI, see docs/http.md.
type Kind string

// The kinds of problems, with the status that they are answered with unless a [Profile] has another one.
const (
	KindKeyMissing       Kind = "key-missing"       // 400, [RequireKey]
	KindKeyMalformed     Kind = "key-malformed"     // 400
	KindBodyUnreadable   Kind = "body-unreadable"   // 400, cut off, or not as long as it was said to be
	KindTenantUnknown    Kind = "tenant-unknown"    // 403
	KindBodyTooLarge     Kind = "body-too-large"    // 413
	KindKeyReused        Kind = "key-reused"        // 422, with another payload
	KindKeyExpired       Kind = "key-expired"       // 422, made longer ago than answers are kept
	KindInProgress       Kind = "in-progress"       // 409, try again
	KindUncertain        Kind = "uncertain"         // 409, an operator has to find out
	KindSettledAsFailed  Kind = "settled-as-failed" // 409, an operator has found out
	KindNotReplayable    Kind = "not-replayable"    // 409, done, but its answer was not kept
	KindUnavailable      Kind = "unavailable"       // 503, try again
	KindAnswerUnreadable Kind = "answer-unreadable" // 500, done, but its answer cannot be read
	KindGrantMissing     Kind = "grant-missing"     // 428, [RequireGrant]
	KindGrantMalformed   Kind = "grant-malformed"   // 400
	KindGrantStale       Kind = "grant-stale"       // 412, somebody else has taken over
)

// sorts is each kind's title and status.
var sorts = map[Kind]struct {
	status int
	title  string
}{
	KindKeyMissing:       {http.StatusBadRequest, "An idempotency key is required"},
	KindKeyMalformed:     {http.StatusBadRequest, "The idempotency key is malformed"},
	KindBodyUnreadable:   {http.StatusBadRequest, "The request's body could not be read"},
	KindTenantUnknown:    {http.StatusForbidden, "It is not known on whose behalf the request is made"},
	KindBodyTooLarge:     {http.StatusRequestEntityTooLarge, "The request's body is too large"},
	KindKeyReused:        {http.StatusUnprocessableEntity, "The idempotency key was used for another request"},
	KindKeyExpired:       {http.StatusUnprocessableEntity, "The idempotency key is older than answers are kept"},
	KindInProgress:       {http.StatusConflict, "A request with this idempotency key is in progress"},
	KindUncertain:        {http.StatusConflict, "An earlier request ended without a known outcome"},
	KindSettledAsFailed:  {http.StatusConflict, "The operation was settled as failed"},
	KindNotReplayable:    {http.StatusConflict, "The operation is done, but its answer was not kept"},
	KindUnavailable:      {http.StatusServiceUnavailable, "It cannot be told at the moment whether the operation is done"},
	KindAnswerUnreadable: {http.StatusInternalServerError, "The operation is done, but its stored answer cannot be read"},
	KindGrantMissing:     {http.StatusPreconditionRequired, "A fencing token is required"},
	KindGrantMalformed:   {http.StatusBadRequest, "The fencing token is malformed"},
	KindGrantStale:       {http.StatusPreconditionFailed, "The fencing token is stale"},
}

// Problem is an answer of this package's own, as RFC 9457 has it.
type Problem struct {
	Kind   Kind   `json:"-"`
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// OriginalStatus is the status of the answer that was not kept, of [KindNotReplayable].
	OriginalStatus int `json:"original_status,omitempty"`
	// RetryAfter is when to try again with the same key; 0 where that is of no use. Whole seconds.
	RetryAfter time.Duration `json:"-"`
	// Err is the reason, for logs. It is not for the client.
	Err error `json:"-"`
}

// ProblemWriter answers with a problem. Retry-After and Link are set already.
type ProblemWriter func(w http.ResponseWriter, r *http.Request, p Problem)

// problems makes and writes them.
type problems struct {
	base      string // of the types' URIs
	described string // for Link; none where it is empty
	write     ProblemWriter
	status    map[Kind]int // a profile's
}

// defaultProblems is where the kinds are described.
const defaultProblems = "https://github.com/onceward/coordinator/blob/main/docs/http.md"

func (p *problems) answer(w http.ResponseWriter, r *http.Request, problem Problem) {
	sort := sorts[problem.Kind]
	problem.Type, problem.Title, problem.Status = p.base+"#"+string(problem.Kind), sort.title, sort.status
	if status := p.status[problem.Kind]; status != 0 {
		problem.Status = status
	}
	if problem.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(problem.RetryAfter.Seconds()))))
	}
	if p.described != "" {
		w.Header().Add("Link", fmt.Sprintf("<%s>; rel=%q", p.described, "describedby"))
	}
	p.write(w, r, problem)
}

// WriteProblem is the default [ProblemWriter]: application/problem+json.
func WriteProblem(w http.ResponseWriter, _ *http.Request, p Problem) {
	text, err := json.Marshal(p)
	if err != nil { // of strings and numbers: there is no such error
		text = []byte("{}")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(text, '\n'))
}
