package coordgrpc

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/onceward/coordinator/internal/sealed"
)

// answer is what a handler said, as it is stored and replayed.
type answer struct {
	kind            byte
	header, trailer metadata.MD
	name            string // of a response's message
	body            []byte // the response, or a google.rpc.Status
	code            codes.Code
}

// The stored form: the kind; a code where the answer was not kept; otherwise header, trailer, a response's name, and the body. How
// numbers and fields are written, internal/sealed has, whose version stands in front.
const (
	kindResponse = 'r'
	kindStatus   = 's'
	kindUnkept   = 'u' // done, but the answer was not kept
)

// mostKept is the most that is kept of an answer, compressed or not, in bytes: what is opened again is bounded too.
const mostKept = 32 << 20

var errAnswer = errors.New("a stored answer that is cut off, of a newer version, or none")

// answerOf is what a handler has returned. A response that cannot be written down is not kept; the operation is done.
func answerOf(resp any, err error) *answer {
	a := &answer{kind: kindResponse}
	if err != nil {
		s := statusOf(err)
		a.kind, a.code = kindStatus, s.Code()
		p := s.Proto()
		if !utf8.ValidString(p.GetMessage()) { // kept as gRPC sends it: it cannot be marshalled, and has no details then
			p.Message, p.Details = string([]rune(p.GetMessage())), nil
		}
		if a.body, err = marshal(p); err != nil {
			a.kind = kindUnkept
		}
		return a
	}
	m := messageOf(resp)
	if m == nil {
		a.kind = kindUnkept
		return a
	}
	a.name = string(m.ProtoReflect().Descriptor().FullName())
	if a.body, err = marshal(m); err != nil {
		a.kind = kindUnkept
	}
	return a
}

// marshal writes a message so that the same one has the same bytes, which a completion that is sent again needs.
func marshal(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// messageOf is what the codec of gRPC takes for a message; nil for others.
func messageOf(v any) proto.Message {
	switch m := v.(type) {
	case proto.Message:
		return m
	case protoadapt.MessageV1:
		return protoadapt.MessageV2Of(m)
	}
	return nil
}

func (a *answer) encode() []byte {
	if a.kind == kindUnkept {
		return binary.AppendUvarint([]byte{kindUnkept}, uint64(a.code))
	}
	b := append(make([]byte, 0, 256+len(a.body)), a.kind)
	b = sealed.AppendFields(b, kept(a.header))
	b = sealed.AppendFields(b, kept(a.trailer))
	if a.kind == kindResponse {
		b = sealed.AppendText(b, a.name)
	}
	return append(b, a.body...)
}

func decodeAnswer(stored []byte) (*answer, error) {
	if len(stored) == 0 {
		return nil, errAnswer
	}
	r := sealed.Reader{Rest: stored[1:]}
	a := &answer{kind: stored[0]}
	switch a.kind {
	case kindUnkept:
		a.code = codes.Code(r.Number(1 << 16))
		r.Bad = r.Bad || len(r.Rest) > 0
	case kindResponse, kindStatus:
		a.header, a.trailer = r.Fields(), r.Fields()
		if a.kind == kindResponse {
			a.name = r.Text()
		}
		a.body = r.Rest
	default:
		return nil, errAnswer
	}
	if r.Bad {
		return nil, errAnswer
	}
	return a, nil
}

// response is the stored response, or the stored status as an error. Not read is an answer whose type or content is not known.
func (a *answer) response(types Types) (resp any, final, unread error) {
	if a.kind == kindStatus {
		var s spb.Status
		if err := proto.Unmarshal(a.body, &s); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errAnswer, err)
		}
		if s.GetCode() == int32(codes.OK) {
			return nil, nil, fmt.Errorf("%w: a status that is no error", errAnswer)
		}
		return nil, status.FromProto(&s).Err(), nil
	}
	kind, err := types.FindMessageByName(protoreflect.FullName(a.name))
	if err != nil {
		return nil, nil, fmt.Errorf("the response is a %q: %w", a.name, err)
	}
	m := kind.New().Interface()
	if err := proto.Unmarshal(a.body, m); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errAnswer, err)
	}
	return m, nil, nil
}

// sumOf tells requests apart that came with one key.
func sumOf(method string, request []byte) []byte {
	sum := sha256.New()
	_, _ = sum.Write(sealed.AppendText(nil, method))
	_, _ = sum.Write(request)
	return sum.Sum(nil)
}
