package coordinator

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/onceward/coordinator/internal/protocol"
)

// docs/states.md tells users what the table of verbs_test.go says: for each verb and state one row, with the reply and
// what is left in its words.

// sections are where the page has each verb.
var sections = map[string]string{
	"claim": "## Claim", "claim with another fingerprint": "### Claim with another fingerprint", "claim in quarantine": "### Claim with QuarantineLapsed",
	"claim of an old key": "### Claim with IssuedAt", "renew": "## Renew and Resume", "checkpoint": "## SaveCheckpoint", "complete": "## Complete and Fail", "fail": "## Complete and Fail",
	"release": "## Release", "give back": "## GiveBack", "expire": "## Expire", "resolve to rerun": "### Resolve with Rerun",
	"resolve to result": "### Resolve with a result", "inspect": "## Inspect", "fence": "## Fence.Do and Fence.Eval",
}

// untold are verbs that the page tells in sentences, or that no user calls.
var untold = map[string]bool{
	"checkpoint again": true, "checkpoint too late": true, "complete after the end": true, "give back uncounted": true, "mark": true, "confirm": true,
}

// situations are how the page may name a state of the table: as of a holder, and as of an operator.
func situations(state string) []string {
	who, what, _ := strings.Cut(state, " ")
	what, otherwise := strings.CutSuffix(what, " otherwise")
	suffix := ""
	if otherwise {
		suffix = ", with other bytes"
	}
	if what == "live" {
		what = "in_progress"
	}
	switch {
	case state == "absent":
		return []string{state}
	case who == "mine" && (what == "tombstone" || what == "given back"):
		return []string{"tombstone, yours", "tombstone, as read"}
	case what == "tombstone":
		return []string{"tombstone", "tombstone, newer", "tombstone of Expire"}
	case what == "given back":
		return []string{"tombstone", "tombstone of GiveBack"}
	case who == "mine":
		return []string{what + ", yours" + suffix, what + suffix}
	}
	return []string{what + ", another's", what + ", newer"}
}

// replyWords are those of the cell for what the caller gets.
func replyWords(verb string, want expectation) string {
	switch want.reply {
	case protocol.Over:
		return "asks again under a new owner"
	case protocol.Mismatch:
		return "`ErrMismatch`"
	case protocol.InProgress, protocol.MovedOn:
		return "`ErrInProgress`"
	case protocol.Finished:
		return "`*CompletedError`"
	case protocol.KeyExpired:
		return "`ErrKeyExpired`"
	case protocol.Uncertain:
		return "`ErrUncertain`"
	case protocol.Lost:
		return "`ErrLeaseLost`"
	case protocol.Stale:
		return "`ErrStaleToken`"
	case protocol.Absent:
		if verb == "inspect" {
			return "`\"absent\"`"
		}
		return "`ErrNotFound`"
	}
	switch section := sections[verb]; {
	case strings.Contains(section, "Claim"):
		return "a lease"
	case verb == "fence":
		return "the command's own reply"
	case verb == "inspect":
		return "its record"
	}
	return "`nil`"
}

// recordWords are those of the cell for what is left.
func recordWords(want expectation) string {
	kind, arg, _ := strings.Cut(want.record, " ")
	switch kind {
	case "same":
		return "unchanged"
	case "":
		return "nothing"
	case "grant":
		if arg == "1" {
			return "`in_progress`, attempt 1"
		}
		return "`in_progress`, attempt + 1, higher token"
	case "renewed":
		return "a later end"
	case "saved":
		return "the new checkpoint"
	case "done":
		return "`completed`"
	case "released":
		return "`released`"
	case "uncounted":
		return "`released`, the attempt taken back"
	case "tombstone":
		return "a tombstone"
	case "settled":
		return map[string]string{"r": "`released`, token raised", "c": "`completed` with this payload, token raised"}[arg]
	}
	return "no such expectation: " + want.record
}

// section is what stands under a heading, up to the next one.
func section(page, heading string) string {
	_, text, _ := strings.Cut(page, "\n"+heading+"\n")
	text, _, _ = strings.Cut(text, "\n#")
	return text
}

// rowsFor finds the rows of a section for a situation: the cells for what the caller gets and for what is left.
func rowsFor(text string, names []string) (rows [][2]string) {
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 {
			continue
		}
		for situation := range strings.SplitSeq(strings.ReplaceAll(cells[1], "`", ""), ";") {
			for _, name := range names {
				if strings.TrimSpace(situation) == name {
					rows = append(rows, [2]string{cells[2], cells[3]})
				}
			}
		}
	}
	return rows
}

func statesFaults(page string) (faults []string) {
	for verb, states := range table {
		if untold[verb] {
			continue
		}
		text := section(page, sections[verb])
		if text == "" {
			faults = append(faults, fmt.Sprintf("no section for %s", verb))
			continue
		}
		for state, want := range states {
			if strings.HasSuffix(state, "stepped") || strings.HasSuffix(state, "bare") {
				continue // the same to a user
			}
			if verb == "fail" { // told as complete, with the two words exchanged
				state = strings.NewReplacer("completed", "failed", "failed", "completed").Replace(state)
				want.record = strings.Replace(want.record, "done f", "done c", 1)
			}
			rows := rowsFor(text, situations(state))
			if len(rows) != 1 {
				faults = append(faults, fmt.Sprintf("%s, %s: %d rows", verb, state, len(rows)))
				continue
			}
			if words := replyWords(verb, want); !strings.Contains(rows[0][0], words) {
				faults = append(faults, fmt.Sprintf("%s, %s: the caller gets %q, not %q", verb, state, words, rows[0][0]))
			}
			if want.reply == protocol.Over {
				continue // and the new owner's row says the rest
			}
			if words := recordWords(want); !strings.Contains(rows[0][1], words) {
				faults = append(faults, fmt.Sprintf("%s, %s: what is left is %q, not %q", verb, state, words, rows[0][1]))
			}
		}
	}
	return faults
}

func TestDocsStates(t *testing.T) {
	text, err := os.ReadFile("docs/states.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for _, fault := range statesFaults(page) {
		t.Error(fault)
	}
	for _, state := range []State{StateAbsent, StateInProgress, StateLapsed, StateReleased, StateCompleted, StateFailed} {
		if !strings.Contains(page, fmt.Sprintf("| `%s` | ", state)) {
			t.Errorf("the page does not say what %s means", state)
		}
	}
	resources := section(page, "## With a resource")
	for verb := range withResource {
		name := regexp.MustCompile(`^#+ (\w+)`).FindStringSubmatch(sections[verb])[1]
		if verb == "fail" {
			name = "Fail"
		}
		if !regexp.MustCompile(`(?m)^\| [^|]*\b` + name + `\b`).MatchString(resources) {
			t.Errorf("the page does not say what a resource changes for %s", verb)
		}
	}

	// A row that is missing, or says another thing, is found.
	for _, edit := range [][2]string{
		{"| `lapsed`, yours | `ErrLeaseLost`", "| `lapsed`, yours | `nil`"},
		{"| `completed`, yours | the same bytes", "| `completed`, another's | the same bytes"},
		{"| a tombstone. The result is gone |", "| unchanged |"},
		{"## Expire\n", "## Forget\n"},
	} {
		spoilt := strings.Replace(page, edit[0], edit[1], 1)
		if spoilt == page || len(statesFaults(spoilt)) == 0 {
			t.Errorf("%q in the place of %q is not found", edit[1], edit[0])
		}
	}
}
