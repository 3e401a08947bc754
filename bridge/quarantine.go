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
	"sync/atomic"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// requestKey names a request by its content.
type requestKey [sha256.Size]byte

// keyOf names a request by its frame, which must not change any more and has no id. It is computed when it is first asked for.
func keyOf(frame request) func() (requestKey, error) {
	return sync.OnceValues(func() (requestKey, error) {
		body, err := msgpack.Marshal(frame)
		if err != nil {
			return requestKey{}, err
		}
		return sha256.Sum256(body), nil
	})
}

// quarantine remembers which requests were suspects of a worker's death, by their content: equal requests share what is known. One
// that was alone in the pass that ended a second worker is held: it ends no more workers for a while, and is written to a file
// from which it can be run again by hand. After that it is tried again, in passes of its own: what killed its workers may have
// come from outside. If it ends that worker too, the while doubles.
type quarantine struct {
	dir      string // where the files go; it is made when it is needed
	load     loadRequest
	versions func() Versions
	create   func(path string) (*os.File, error) // os.OpenFile; tests put a full disk here

	suspicion time.Duration // the constant; tests on slow machines have a longer one

	culprits      atomic.Int64 // requests that were found guilty since one was last served
	smallCulprits atomic.Int64 // small calls, since one or a request was last served

	mu       sync.Mutex // guards what follows
	held     map[requestKey]*heldRequest
	suspects map[requestKey]*suspectRequest
}

// heldRequest is a request that is refused until a time.
type heldRequest struct {
	err      *QuarantineError // whole once the file was written, or could not be
	writing  sync.WaitGroup
	until    time.Time
	wait     time.Duration
	absolves bool // the deaths that it caused are no reason not to start workers
}

// suspectRequest is a request that was in the pass that ended a worker.
type suspectRequest struct {
	deaths int
	worker *worker // the last one
	at     time.Time
}

const (
	holdFirst = time.Minute
	holdMost  = time.Hour
	// suspicion is how long a death is remembered of requests that were not found guilty.
	suspicion = time.Minute
)

// heldAtMost bounds what is remembered; the files stay.
const heldAtMost = 1000

// createPrivate makes a file. Prompts may be private, so nobody else may read it.
func createPrivate(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// wholeError returns the error of the request with its file. It waits for a disk, so q.mu must not be held.
func (h *heldRequest) wholeError() *QuarantineError {
	h.writing.Wait()
	return h.err
}

// check returns the error of a request that is held. A request that was held before, or that equals a suspect, becomes a suspect.
func (q *quarantine) check(j *job) error {
	h, err := q.find(j)
	if h != nil {
		return h.wholeError()
	}
	return err
}

// find is check, but for the error of a request that is held, which may not be whole yet.
func (q *quarantine) find(j *job) (*heldRequest, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.held)+len(q.suspects) == 0 {
		return nil, nil
	}
	key, err := j.key()
	if err != nil {
		return nil, err
	}
	if h := q.held[key]; h != nil {
		if time.Now().Before(h.until) {
			return h, nil
		}
		j.deaths, j.held = max(1, j.deaths), true
	}
	if s := q.suspects[key]; s != nil {
		if time.Since(s.at) < q.suspicion {
			j.deaths = max(j.deaths, s.deaths)
		} else {
			delete(q.suspects, key)
		}
	}
	return nil, nil
}

// judge notes that a request was in the pass that ended a worker, alone or not. It returns the error of a request that is
// guilty, and how many deaths that explains.
func (q *quarantine) judge(j *job, w *worker, alone bool, cause error) (explained int, err error) {
	key, err := j.key()
	if err != nil {
		return 0, errors.Join(cause, err)
	}
	h, explained, found := q.sentence(j, key, w, alone, cause)
	if h == nil {
		return 0, nil
	}
	if found {
		h.err.File, h.err.FileErr = q.write(j, cause)
		h.writing.Done()
	}
	return explained, h.wholeError()
}

// sentence is judge without the file. It returns a guilty request, how many deaths that explains, and whether it was found guilty just now.
func (q *quarantine) sentence(j *job, key requestKey, w *worker, alone bool, cause error) (h *heldRequest, explained int, found bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := q.held[key]
	if before != nil && time.Now().Before(before.until) { // an equal one was found guilty a moment ago
		if before.absolves {
			explained = 1
		}
		return before, explained, false
	}
	s := q.suspects[key]
	if s == nil || time.Since(s.at) >= q.suspicion {
		s = &suspectRequest{}
		if j.held {
			s.deaths = 1
		}
		if q.suspects == nil || len(q.suspects) >= heldAtMost {
			q.suspects = map[requestKey]*suspectRequest{}
		}
		q.suspects[key] = s
	}
	if s.worker != w { // equal requests in one pass saw one death
		s.deaths++
	}
	s.worker, s.at = w, time.Now()
	j.deaths = max(j.deaths+1, s.deaths)
	if !alone || s.deaths < 2 {
		return nil, 0, false
	}
	delete(q.suspects, key)
	h = &heldRequest{err: &QuarantineError{Err: cause}, wait: holdFirst}
	h.writing.Add(1)
	if before != nil {
		h.wait = min(2*before.wait, holdMost)
	}
	h.until = time.Now().Add(h.wait)
	if h.absolves = q.culprit(); h.absolves {
		explained = s.deaths
	}
	if q.held == nil || len(q.held) >= heldAtMost {
		q.held = map[requestKey]*heldRequest{}
	}
	q.held[key] = h
	return h, explained, true
}

// culprit counts a request that was found guilty, and reports whether it explains the deaths it caused. Several in succession, with
// nothing served in between, say that the worker is broken.
func (q *quarantine) culprit() bool { return q.culprits.Add(1) == 1 }

// served notes that workers serve requests.
func (q *quarantine) served() {
	q.culprits.Store(0)
	q.smallCulprits.Store(0)
}

// smallCulprit is culprit for a small call.
func (q *quarantine) smallCulprit() bool { return q.smallCulprits.Add(1) == 1 }

// servedSmall notes that workers serve small calls, which does not say that they serve requests.
func (q *quarantine) servedSmall() { q.smallCulprits.Store(0) }

// absolve forgets the deaths that a request was suspected of, for it was served.
func (q *quarantine) absolve(j *job) {
	q.served()
	if !j.held && j.deaths == 0 {
		return
	}
	if key, err := j.key(); err == nil {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.held, key)
		delete(q.suspects, key)
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
	q.held, q.suspects = nil, nil
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

func (q *quarantine) write(j *job, cause error) (file string, err error) {
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
