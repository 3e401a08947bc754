package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// requestKey names a request by its content.
type requestKey [sha256.Size]byte

// keyOf is the key of a request's frame. The frame's id must be zero.
func keyOf(frame request) (requestKey, error) {
	body, err := msgpack.Marshal(frame)
	if err != nil {
		return requestKey{}, err
	}
	return sha256.Sum256(body), nil
}

// quarantine remembers the requests that ended two workers, so that they do not end more, and writes each
// to a file from which it can be run again by hand. After a while such a request is tried again, alone:
// what killed its workers may have come from outside. If it ends that worker too, the while doubles.
type quarantine struct {
	dir      string // where the files go; it is made when it is needed
	load     loadRequest
	versions func() Versions
	create   func(path string) (*os.File, error) // os.OpenFile; tests put a full disk here

	mu   sync.Mutex // guards what follows
	held map[requestKey]*heldRequest
}

// heldRequest is a request that is refused until a time.
type heldRequest struct {
	err   *QuarantineError
	until time.Time
	wait  time.Duration
}

const (
	holdFirst = time.Minute
	holdMost  = time.Hour
)

// heldAtMost bounds what is remembered; the files stay.
const heldAtMost = 1000

// createPrivate makes a file. Prompts may be private, so nobody else may read it.
func createPrivate(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// check returns the error of a request that is held, and makes one that was held a suspect.
func (q *quarantine) check(j *journey) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.held) == 0 {
		return nil
	}
	key, err := j.key()
	if err != nil {
		return err
	}
	h := q.held[key]
	switch {
	case h == nil:
		return nil
	case time.Now().Before(h.until):
		return h.err
	}
	j.deaths, j.held = 1, true
	return nil
}

// add quarantines a request and returns the error to report.
func (q *quarantine) add(j *journey, cause error) error {
	e := &QuarantineError{Err: cause}
	e.File, e.FileErr = q.write(j, cause)
	key, err := j.key()
	if err != nil {
		return errors.Join(e, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held == nil || len(q.held) >= heldAtMost {
		q.held = map[requestKey]*heldRequest{}
	}
	wait := holdFirst
	if before := q.held[key]; before != nil {
		wait = min(2*before.wait, holdMost)
	}
	q.held[key] = &heldRequest{err: e, until: time.Now().Add(wait), wait: wait}
	return e
}

// release forgets a request that was held and served now.
func (q *quarantine) release(j *journey) {
	if key, err := j.key(); err == nil {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.held, key)
	}
}

func (q *quarantine) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.held)
}

// clear forgets all requests.
func (q *quarantine) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held = nil
}

// repro is what a repro file holds; python -m go_mlx_worker.repro runs it.
type repro struct {
	Model    string         `json:"model"`
	Time     time.Time      `json:"time"`
	Error    string         `json:"error"`
	Versions Versions       `json:"versions"`
	Load     map[string]any `json:"load"`
	Request  map[string]any `json:"request"`
	Made     []int32        `json:"made"` // tokens before the end
}

func (q *quarantine) write(j *journey, cause error) (file string, err error) {
	defer func() {
		if err != nil {
			file = ""
		}
	}()
	r := repro{Model: q.load.Path, Time: time.Now().UTC(), Error: cause.Error(), Versions: q.versions(), Made: j.made()}
	load := q.load
	load.head = head{Type: "load"}
	if r.Load, err = asMap(&load); err != nil {
		return "", err
	}
	if r.Request, err = asMap(j.frame); err != nil {
		return "", err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(q.dir, 0o700); err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	file = filepath.Join(q.dir, fmt.Sprintf("%s-%s.json", r.Time.Format("20060102-150405"), hex.EncodeToString(sum[:4])))
	out, err := q.create(file)
	if err != nil {
		return "", err
	}
	_, err = out.Write(data)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		_ = os.Remove(file) // half a file is worse than none
	}
	return file, err
}

// asMap turns a frame into what JSON can hold.
func asMap(frame request) (map[string]any, error) {
	body, err := msgpack.Marshal(frame)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	return m, msgpack.Unmarshal(body, &m)
}
