package faultproxy

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	long := strings.Repeat("x", 10_000) // longer than bufio's buffer
	frames := []string{
		"+OK\r\n", "-ERR no\r\n", ":-12\r\n", "$3\r\na\nb\r\n", "$0\r\n\r\n", "$-1\r\n",
		"*0\r\n", "*-1\r\n", "*2\r\n:1\r\n*1\r\n$1\r\nx\r\n",
		"_\r\n", "#t\r\n", ",3.14\r\n", ",inf\r\n", "(3492890328409238509324850943850943825024385\r\n",
		"!9\r\nERR wrong\r\n", "=7\r\ntxt:abc\r\n",
		"%2\r\n+a\r\n:1\r\n+b\r\n%1\r\n+c\r\n_\r\n", "~2\r\n:1\r\n:2\r\n",
		">3\r\n+message\r\n+ch\r\n+hello\r\n",
		"|1\r\n+ttl\r\n:3600\r\n*1\r\n:1\r\n",
		"+" + long + "\r\n", "$10000\r\n" + long + "\r\n",
	}
	r := bufio.NewReader(strings.NewReader(strings.Join(frames, "")))
	for _, want := range frames {
		got, err := appendFrame(nil, r)
		if err != nil || string(got) != want {
			t.Fatalf("read %.50q, %v, want %.50q", got, err, want)
		}
	}
	if _, err := appendFrame(nil, r); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
}

func TestBadFrames(t *testing.T) {
	for _, s := range []string{"x\r\n", "?\r\n\r\n", "$x\r\n", "$-2\r\n", "\r\n", "\n", "+OK\n", "*1\r\n?1\r\n"} {
		if got, err := appendFrame(nil, bufio.NewReader(strings.NewReader(s))); err == nil {
			t.Errorf("%q is read as %q", s, got)
		}
	}
}

func TestRequests(t *testing.T) {
	r := bufio.NewReader(strings.NewReader("*2\r\n$3\r\nget\r\n$4\r\nk\r\ny\r\nset a  b\r\n*1\r\n$-2\r\n"))
	for _, want := range [][]string{{"get", "k\r\ny"}, {"set", "a", "b"}} {
		req, err := readRequest(r)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range req.Args {
			got = append(got, string(a))
		}
		if !slices.Equal(got, want) || req.Name != strings.ToUpper(want[0]) {
			t.Errorf("%s %q, want %q", req.Name, got, want)
		}
	}
	if req, err := readRequest(r); err == nil {
		t.Errorf("nonsense is read as %q", req.raw)
	}
}
