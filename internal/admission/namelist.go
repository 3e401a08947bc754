package admission

import "slices"

// maxNamed is how many models a Wait names. A queue may be a thousand models long, and each of those that wait would be told a sentence
// with the names of all others at every step.
const maxNamed = 16

// nameList is a list of names, each once, of which the first maxNamed are kept in alphabetical order and the others are counted. A list
// that was returned is not changed by later calls, so that many may share it.
type nameList struct {
	first []string
	all   map[string]bool
}

// reset empties the list.
func (l *nameList) reset() {
	l.first = nil
	clear(l.all)
}

func (l *nameList) add(name string) {
	if l.all[name] {
		return
	}
	if l.all == nil {
		l.all = map[string]bool{}
	}
	l.all[name] = true
	if len(l.first) < maxNamed {
		at, _ := slices.BinarySearch(l.first, name)
		l.first = slices.Insert(slices.Clone(l.first), at, name)
	}
}

// plus returns the first names of the list with one name added, and how many others there are.
func (l nameList) plus(name string) (names []string, others int) {
	if l.all[name] || len(l.first) == maxNamed {
		names, others = l.but("")
		if !l.all[name] {
			others++
		}
		return names, others
	}
	at, _ := slices.BinarySearch(l.first, name)
	return slices.Insert(slices.Clone(l.first), at, name), 0
}

// but returns the first names of the list without one name, and how many others there are.
func (l nameList) but(name string) (names []string, others int) {
	names, n := l.first, len(l.all)
	if l.all[name] {
		n--
		if at, found := slices.BinarySearch(names, name); found {
			names = slices.Delete(slices.Clone(names), at, at+1)
		}
	}
	return names, n - len(names)
}
