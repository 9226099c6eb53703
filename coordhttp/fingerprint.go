package coordhttp

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/gowebpki/jcs"

	"github.com/onceward/coordinator/internal/sealed"
)

// fingerprint tells requests apart that came with one key: what was asked for, whoever asks and whenever.
func (m *middleware) fingerprint(r *http.Request, path string, body []byte) []byte {
	head := make([]byte, 0, 128)
	head = sealed.AppendText(sealed.AppendText(sealed.AppendText(head, r.Method), path), r.URL.RawQuery)
	for _, name := range m.headers {
		values := r.Header.Values(name)
		if name == "Host" {
			values = []string{r.Host} // which net/http takes out of the header
		}
		head = binary.AppendUvarint(head, uint64(len(values)))
		for _, value := range values {
			head = sealed.AppendText(head, value)
		}
	}
	if m.canonical && isJSON(r.Header) {
		if same, err := jcs.Transform(body); err == nil && exact(body) {
			body = same // what is not JSON is compared byte by byte; to refuse it is the handler's affair
		}
	}
	sum := sha256.New()
	_, _ = sum.Write(binary.AppendUvarint(head, uint64(len(body))))
	_, _ = sum.Write(body)
	return sum.Sum(nil)
}

// exact says whether all numbers of a JSON text survive as float64s, as which RFC 8785 takes them: otherwise two that differ in
// their last digits would be the same.
func exact(body []byte) bool {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if err != nil {
			return errors.Is(err, io.EOF)
		}
		if n, is := token.(json.Number); is {
			mantissa, _, _ := strings.Cut(strings.ToLower(n.String()), "e")
			digits := strings.Trim(strings.ReplaceAll(strings.TrimPrefix(mantissa, "-"), ".", ""), "0")
			if len(digits) > 15 {
				return false
			}
		}
	}
}

func isJSON(h http.Header) bool {
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && (media == "application/json" || strings.HasSuffix(media, "+json"))
}
