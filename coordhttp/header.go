package coordhttp

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/dunglas/httpsfv"
)

// maxKey is the most bytes that a key has, as coordinator.Key.ID takes them.
const maxKey = 255

var errNoKey = errors.New("no idempotency key")

// readKey returns the key in a header, errNoKey where there is none; other errors say what is wrong with it. `k` and `"k"` are one key.
func readKey(h http.Header, name string, quotedOnly bool) (string, error) {
	values := h.Values(name)
	switch len(values) {
	case 0:
		return "", errNoKey
	case 1:
	default:
		return "", fmt.Errorf("it was sent %d times; send it once", len(values))
	}
	value := strings.Trim(values[0], " \t")
	key := value
	switch {
	case value == "":
		return "", errors.New("it is empty; leave it out, or send a key that is unique to the operation")
	case value[0] == '"' || quotedOnly:
		// Many times the longest string, every character of it escaped; what is longer is not worth parsing.
		if len(value) > 4*maxKey {
			return "", tooLong(len(value))
		}
		item, err := httpsfv.UnmarshalItem([]string{value})
		quoted, text := item.Value.(string)
		if err != nil || !text || len(item.Params.Names()) > 0 { // parameters have no meaning here, and who overlooks them has another key
			return "", errors.New(`it is not a string of RFC 9651; send it in double quotes, as in "8e03978e-40d5-43dd-bc93-6894a57f9324"`)
		}
		if key = quoted; key == "" {
			return "", errors.New("it is an empty string; send a key that is unique to the operation")
		}
	default:
		// A comma is where several headers may have been made one; all else that is visible may stand for itself.
		if i := strings.IndexFunc(value, func(c rune) bool { return c <= ' ' || c > '~' || c == ',' || c == '"' }); i >= 0 {
			return "", fmt.Errorf("byte %d of it is not allowed without quotes; send visible ASCII without commas, or a string in double quotes", i+1)
		}
	}
	if len(key) > maxKey {
		return "", tooLong(len(key))
	}
	return key, nil
}

func tooLong(n int) error {
	return fmt.Errorf("it has %d bytes; at most %d are allowed", n, maxKey)
}

// quoteKey is a key as a string of RFC 9651; an error where it has bytes that none can hold.
func quoteKey(key string) (string, error) {
	return httpsfv.Marshal(httpsfv.NewItem(key))
}
