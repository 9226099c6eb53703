package faultproxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

var errProtocol = errors.New("faultproxy: not RESP")

// appendFrame reads one complete RESP2 or RESP3 value and appends its bytes,
// as they came, to dst.
func appendFrame(dst []byte, r *bufio.Reader) ([]byte, error) {
	start := len(dst)
	dst, err := appendLine(dst, r)
	if err != nil {
		return dst, err
	}
	line := dst[start:]
	kind := line[0]
	switch kind {
	case '+', '-', ':', '_', '#', ',', '(':
		return dst, nil
	}
	n, err := length(line)
	if err != nil {
		return dst, err
	}
	switch kind {
	case '$', '=', '!':
		return appendBulk(dst, r, n)
	case '*', '~', '>':
	case '%':
		n *= 2
	case '|':
		// Attributes go before the value they belong to.
		n = 2*n + 1
	default:
		return dst, fmt.Errorf("%w: %q", errProtocol, line)
	}
	for ; n > 0; n-- { // n is -1 for a RESP2 null array
		if dst, err = appendFrame(dst, r); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// appendBulk reads the n bytes announced and the end of line after them, or
// nothing if n is -1, which is RESP2's null.
func appendBulk(dst []byte, r *bufio.Reader, n int) ([]byte, error) {
	if n < 0 {
		return dst, nil
	}
	start := len(dst)
	dst = append(dst, make([]byte, n+2)...)
	_, err := io.ReadFull(r, dst[start:])
	return dst, err
}

// appendLine reads up to and including the end of a line, of which there is
// more than that end.
func appendLine(dst []byte, r *bufio.Reader) ([]byte, error) {
	start := len(dst)
	for {
		part, err := r.ReadSlice('\n')
		dst = append(dst, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return dst, err
		}
		if line := dst[start:]; len(line) < 3 || !bytes.HasSuffix(line, []byte("\r\n")) {
			return dst, fmt.Errorf("%w: %q", errProtocol, line)
		}
		return dst, nil
	}
}

// length parses the number in a line such as "$12\r\n". Streamed values, which
// have a question mark there, are in RESP3 but never sent by Redis.
func length(line []byte) (int, error) {
	n, err := strconv.Atoi(string(line[1 : len(line)-2]))
	if err != nil || n < -1 {
		return 0, fmt.Errorf("%w: %q", errProtocol, line)
	}
	return n, nil
}
