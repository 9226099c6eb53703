package coordgrpc

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/onceward/coordinator/internal/sealed"
)

// What is read as an answer is written as it was, and nothing that is read panics.
func FuzzDecodeAnswer(f *testing.F) {
	full := answerOf(&testpb.SimpleResponse{Username: "u"}, nil)
	full.header, full.trailer = metadata.Pairs("a", "1", "a", "2", "b-bin", "\x00"), metadata.Pairs("c", "")
	for _, a := range []*answer{full, answerOf(nil, errAnswer), {kind: kindUnkept, code: codes.NotFound}} {
		f.Add(a.encode())
	}
	f.Add([]byte("r\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	box, err := sealed.New(10, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		_, _ = box.Open(stored, nil)
		a, err := decodeAnswer(stored)
		if err != nil {
			return
		}
		if a.kind != kindUnkept {
			_, _, _ = a.response(protoregistry.GlobalTypes)
		}
		again, err := decodeAnswer(a.encode())
		if err != nil || again.kind != a.kind || again.code != a.code || again.name != a.name || !bytes.Equal(again.body, a.body) {
			t.Errorf("%+v, then %+v, %v", a, again, err)
		}
		if !bytes.Equal(again.encode(), a.encode()) {
			t.Errorf("%q, then %q", a.encode(), again.encode())
		}
	})
}

// A key is 1 to 255 visible characters without commas and quotes, whatever comes.
func FuzzKey(f *testing.F) {
	for _, key := range []string{"", "k", "a,b", `"k"`, "a b", "ü", "\x00"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{KeyMetadata: {key}})
		got, err := readKey(ctx)
		if err != nil {
			return
		}
		if got != key || len(key) < 1 || len(key) > maxKey || bytes.ContainsFunc([]byte(key), func(c rune) bool { return c <= ' ' || c > '~' || c == ',' || c == '"' }) {
			t.Errorf("%q was taken as %q", key, got)
		}
	})
}
