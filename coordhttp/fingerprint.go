package coordhttp

import (
	"crypto/sha256"
	"encoding/binary"
	"mime"
	"net/http"
	"strings"

	"github.com/gowebpki/jcs"
)

// fingerprint tells requests apart that came with one key: what was asked for, whoever asks and whenever.
func (m *middleware) fingerprint(r *http.Request, body []byte) []byte {
	head := make([]byte, 0, 128)
	head = appendText(appendText(appendText(head, r.Method), r.URL.EscapedPath()), r.URL.RawQuery)
	for _, name := range m.headers {
		values := r.Header.Values(name)
		head = binary.AppendUvarint(head, uint64(len(values)))
		for _, value := range values {
			head = appendText(head, value)
		}
	}
	if m.canonical && isJSON(r.Header) {
		if same, err := jcs.Transform(body); err == nil {
			body = same // what is not JSON is compared byte by byte; to refuse it is the handler's affair
		}
	}
	sum := sha256.New()
	_, _ = sum.Write(binary.AppendUvarint(head, uint64(len(body))))
	_, _ = sum.Write(body)
	return sum.Sum(nil)
}

func isJSON(h http.Header) bool {
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && (media == "application/json" || strings.HasSuffix(media, "+json"))
}
