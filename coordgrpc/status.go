package coordgrpc

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/onceward/coordinator"
)

// Domain is the domain of the google.rpc.ErrorInfo that each status of this package's own carries.
const Domain = "github.com/onceward/coordinator"

// Reason is the reason of a status of this package's own, in its google.rpc.ErrorInfo; see docs/grpc.md.
type Reason string

// The reasons, with the code that each comes with.
const (
	ReasonKeyMissing       Reason = "KEY_MISSING"       // INVALID_ARGUMENT, [RequireKey]
	ReasonKeyMalformed     Reason = "KEY_MALFORMED"     // INVALID_ARGUMENT
	ReasonTenantUnknown    Reason = "TENANT_UNKNOWN"    // PERMISSION_DENIED
	ReasonKeyReused        Reason = "KEY_REUSED"        // FAILED_PRECONDITION, with another request
	ReasonKeyExpired       Reason = "KEY_EXPIRED"       // FAILED_PRECONDITION, made longer ago than answers are kept
	ReasonInProgress       Reason = "IN_PROGRESS"       // ABORTED, try again
	ReasonLeaseLost        Reason = "LEASE_LOST"        // ABORTED, try again
	ReasonUncertain        Reason = "UNCERTAIN"         // FAILED_PRECONDITION, an operator has to find out
	ReasonSettledAsFailed  Reason = "SETTLED_AS_FAILED" // FAILED_PRECONDITION, an operator has found out
	ReasonNotReplayable    Reason = "NOT_REPLAYABLE"    // FAILED_PRECONDITION, done, but its answer was not kept
	ReasonUnavailable      Reason = "UNDECIDED"         // UNAVAILABLE, Redis cannot be asked: try again
	ReasonGone             Reason = "CALL_ENDED"        // CANCELLED or DEADLINE_EXCEEDED, before anything was known
	ReasonAnswerUnreadable Reason = "ANSWER_UNREADABLE" // INTERNAL, done, but its answer cannot be read
	ReasonRecordUnreadable Reason = "RECORD_UNREADABLE" // INTERNAL, what is known of the operation cannot be read; nothing was run
	ReasonMisconfigured    Reason = "MISCONFIGURED"     // INTERNAL, the service cannot ask; nothing was run
	ReasonGrantMissing     Reason = "GRANT_MISSING"     // INVALID_ARGUMENT, [RequireGrant]
	ReasonGrantMalformed   Reason = "GRANT_MALFORMED"   // INVALID_ARGUMENT
	ReasonGrantStale       Reason = "GRANT_STALE"       // FAILED_PRECONDITION, somebody else has taken over
	ReasonResourceUnknown  Reason = "RESOURCE_UNKNOWN"  // PERMISSION_DENIED, what the call writes to is not known
)

// sorts is each reason's code and text.
var sorts = map[Reason]struct {
	code codes.Code
	text string
}{
	ReasonKeyMissing:       {codes.InvalidArgument, "an idempotency key is required"},
	ReasonKeyMalformed:     {codes.InvalidArgument, "the idempotency key is malformed"},
	ReasonTenantUnknown:    {codes.PermissionDenied, "it is not known on whose behalf the call is made; authenticate, and send it again with the same key"},
	ReasonKeyReused:        {codes.FailedPrecondition, "the idempotency key was used for another request"},
	ReasonKeyExpired:       {codes.FailedPrecondition, "the idempotency key is older than answers are kept"},
	ReasonInProgress:       {codes.Aborted, "a call with this idempotency key is in progress"},
	ReasonLeaseLost:        {codes.Aborted, "the call was overtaken, and its answer was not stored"},
	ReasonUncertain:        {codes.FailedPrecondition, "an earlier call ended without a known outcome"},
	ReasonSettledAsFailed:  {codes.FailedPrecondition, "the operation was settled as failed; make a new key for a new try, if there is to be one"},
	ReasonNotReplayable:    {codes.FailedPrecondition, "the operation is done, but its answer was not kept; look at what it has made, and do not send it with a new key"},
	ReasonUnavailable:      {codes.Unavailable, "it cannot be told at the moment whether the operation is done"},
	ReasonAnswerUnreadable: {codes.Internal, "the operation is done, but its stored answer cannot be read; ask who runs the service, and do not send it with a new key"},
	ReasonRecordUnreadable: {codes.Internal, "what is known of the operation cannot be read; ask who runs the service, and send it again with the same key"},
	ReasonMisconfigured:    {codes.Internal, "the service cannot tell whether the operation is done; ask who runs it, and send the call again with the same key"},
	ReasonGrantMissing:     {codes.InvalidArgument, "a fencing token is required"},
	ReasonGrantMalformed:   {codes.InvalidArgument, "the fencing token is malformed"},
	ReasonGrantStale:       {codes.FailedPrecondition, "the fencing token is stale"},
	ReasonResourceUnknown:  {codes.PermissionDenied, "it is not known what the call writes to; name it as the service asks for"},
}

// ReasonOf returns the reason of an error that this package has answered with; empty for others, such as a handler's own.
func ReasonOf(err error) Reason {
	for _, detail := range status.Convert(err).Details() {
		if info, is := detail.(*errdetails.ErrorInfo); is && info.GetDomain() == Domain {
			return Reason(info.GetReason())
		}
	}
	return ""
}

// refusal is a status of this package's own, before it is made.
type refusal struct {
	reason Reason
	detail string            // for the caller
	after  time.Duration     // to try again with the same key; 0 where that is of no use
	more   map[string]string // of the ErrorInfo
	err    error             // for logs, not for the caller
}

// retrySoon is how long a client is told to wait for what may be over in a moment.
const retrySoon = time.Second

func (r refusal) status(ctx context.Context) error {
	sort, there := sorts[r.reason]
	if !there { // ReasonGone
		ended := status.FromContextError(ctx.Err())
		sort.code, sort.text = ended.Code(), "the call ended before it was known whether the operation is done"
	}
	text := sort.text
	if r.detail != "" {
		text += ": " + r.detail
	}
	text = strings.ToValidUTF8(text, "?") // which protobuf insists on
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: string(r.reason), Domain: Domain, Metadata: r.more}}
	if r.after > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(r.after)})
	}
	s := status.New(sort.code, text)
	if detailed, err := s.WithDetails(details...); err == nil {
		s = detailed
	}
	return s.Err()
}

// refusalOf is what a claim's error is answered with.
func refusalOf(ctx context.Context, err error, made time.Time) refusal {
	const again = "send the call again, with the same key"
	switch {
	case errors.Is(err, coordinator.ErrInProgress):
		return refusal{reason: ReasonInProgress, err: err, after: retrySoon, detail: again + ", for its answer"}
	case errors.Is(err, coordinator.ErrMismatch):
		return refusal{reason: ReasonKeyReused, err: err, detail: "make a new key for a new operation"}
	case errors.Is(err, coordinator.ErrKeyExpired):
		return refusal{reason: ReasonKeyExpired, err: err, detail: "the operation may have been done; make a new key only if it was not"}
	case errors.Is(err, coordinator.ErrUncertain):
		return refusal{reason: ReasonUncertain, err: err, detail: "it may have been done, in part or as a whole, and has to be looked into"}
	case errors.Is(err, coordinator.ErrInvalid) && time.Until(made) > 30*time.Minute: // an hour, by Redis' clock
		return refusal{reason: ReasonKeyMalformed, err: err, detail: "it says that it was made in the future; mend the clock that it came from"}
	case errors.Is(err, coordinator.ErrInvalid):
		return refusal{reason: ReasonMisconfigured, err: err}
	case errors.Is(err, coordinator.ErrCorrupt): // whether that is done or in progress
		return refusal{reason: ReasonRecordUnreadable, err: err}
	case ctx.Err() != nil:
		return refusal{reason: ReasonGone, err: err}
	}
	return refusal{reason: ReasonUnavailable, err: err, after: retrySoon, detail: again}
}

// statusOf is an error as the server sends it: one without a status is UNKNOWN, but for a context's.
func statusOf(err error) *status.Status {
	if s, is := status.FromError(err); is {
		return s
	}
	return status.FromContextError(err)
}
