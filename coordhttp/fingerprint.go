package coordhttp

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/gowebpki/jcs"
)

// fingerprint tells requests apart that came with one key: what was asked for, whoever asks and whenever.
func (m *middleware) fingerprint(r *http.Request, body []byte) []byte {
	sum := sha256.New()
	part(sum, r.Method)
	part(sum, r.URL.EscapedPath())
	part(sum, r.URL.RawQuery)
	for _, name := range m.headers {
		values := r.Header.Values(name)
		count(sum, len(values))
		for _, value := range values {
			part(sum, value)
		}
	}
	if m.canonical && isJSON(r.Header) {
		if same, err := jcs.Transform(body); err == nil {
			body = same // what is not JSON is compared byte by byte; to refuse it is the handler's affair
		}
	}
	count(sum, len(body))
	_, _ = sum.Write(body)
	return sum.Sum(nil)
}

// part adds s so that no two lists of parts look the same.
func part(sum hash.Hash, s string) {
	count(sum, len(s))
	_, _ = io.WriteString(sum, s)
}

func count(sum hash.Hash, n int) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	_, _ = sum.Write(b[:])
}

func isJSON(h http.Header) bool {
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && (media == "application/json" || strings.HasSuffix(media, "+json"))
}
