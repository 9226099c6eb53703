package protocol

import (
	"testing"
	"time"
)

// The script compares the two moments with its clock digit by digit, so each has 13 of them whatever a client says.
func TestWindow(t *testing.T) {
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		issued time.Time
		want   string
	}{
		"not said":           {time.Time{}, ""},
		"now":                {time.UnixMilli(1795829890308), "1795826290308" + "1795916290308"},
		"in 1970":            {time.UnixMilli(1), "0000000000000" + "0000086400001"},
		"in 2286":            {time.UnixMilli(9_999_999_999_000), "9999996399000" + "9999999999999"},
		"the last of UUIDv7": {time.UnixMilli(1<<48 - 1), "9999999999999" + "9999999999999"},
	} {
		if got := string(window(c.issued, day)); got != c.want {
			t.Errorf("%s: %q, not %q", name, got, c.want)
		}
	}
}
