package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
)

// part is a marked part of the page.
type part struct {
	name string
	text string // lines, the last one ended
}

// marked finds the parts that the program writes: what stands between a mark with a name and the next end mark.
var marked = regexp.MustCompile(`(?ms)^<!-- scaling: (\S+) -->\n(.*?)^<!-- end -->$`)

// filled is the page with each part where its mark is.
func filled(page string, parts []part) (string, error) {
	texts, wrong := map[string]string{}, []error{}
	for _, p := range parts {
		texts[p.name] = p.text
	}
	page = marked.ReplaceAllStringFunc(page, func(old string) string {
		name := marked.FindStringSubmatch(old)[1]
		text, known := texts[name]
		if !known {
			wrong = append(wrong, fmt.Errorf("the page has a mark for %s, or two, which nobody makes", name))
			return old
		}
		delete(texts, name)
		return fmt.Sprintf("<!-- scaling: %s -->\n%s<!-- end -->", name, text)
	})
	for name := range texts {
		wrong = append(wrong, fmt.Errorf("the page has no mark for %s", name))
	}
	return page, errors.Join(wrong...)
}

func rewrite(path string, parts []part) error {
	was, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	page, err := filled(string(was), parts)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(page), 0o644)
}

func compare(path string, parts []part) error {
	is, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	page, err := filled(string(is), parts)
	if err != nil {
		return err
	}
	if page != string(is) {
		return fmt.Errorf("%s does not have the tables that this program makes; run it with -write", path)
	}
	return nil
}
