package server

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// decode reads a request's JSON; what has no effect is named in a header and in the log.
func (s *Server) decode(w http.ResponseWriter, r *http.Request, table *turn.Table, value any) (*turn.Notes, error) {
	v := visitOf(r.Context())
	body := v.body
	v.body = nil // may be garbage while the answer is made
	notes, err := table.Decode(body, value, s.config.Strict)
	if err != nil {
		return nil, err
	}
	s.noteIn(r.Context(), w.Header(), notes)
	return notes, nil
}

func (s *Server) noteIn(ctx context.Context, h http.Header, notes *turn.Notes) {
	names := notes.Names()
	if len(names) == 0 {
		return
	}
	visitOf(ctx).ignored = names
	h.Set(headerIgnored, headerText(strings.Join(names, ", ")))
}

// Alias lets requests name a model otherwise. The pattern may hold * and ?, as for files; they stand for slashes, too.
type Alias struct{ Pattern, Name string }

// matches reports whether a name is of the pattern. The one that is malformed matches nothing.
func (a Alias) matches(name string) bool {
	const noSlash = "\x00" // path.Match ends its stars at slashes, of which names of models have some
	ok, err := path.Match(strings.ReplaceAll(a.Pattern, "/", noSlash), strings.ReplaceAll(name, "/", noSlash))
	return err == nil && ok
}

// resolve is the name of the model that a request means.
func (s *Server) resolve(name string) (string, error) {
	names := s.config.Models.Names()
	if name == "" || name == "default" {
		switch {
		case s.config.DefaultModel != "":
			return s.config.DefaultModel, nil
		case len(names) == 1:
			return names[0], nil
		case name == "":
			return "", turn.Bad("model", "which one? There are %s", strings.Join(names, ", "))
		}
	}
	for _, known := range names {
		if known == name {
			return name, nil
		}
	}
	for _, a := range s.config.Aliases {
		if a.matches(name) {
			return a.Name, nil
		}
	}
	return name, nil
}

// choose names the model of a request that names none; the answer says which one it was.
func (s *Server) choose(name *string) (err error) {
	if *name == "" {
		*name, err = s.resolve("")
	}
	return err
}

// acquire takes the model that a request names. It says in the headers which engine runs it, and why. waits is called with what the request waits for.
func (s *Server) acquire(ctx context.Context, given string, header func(func(http.Header)), waits func(mlx.Wait)) (*mlx.Lease, error) {
	name, err := s.resolve(given)
	if err != nil {
		return nil, err
	}
	lease, err := s.config.Models.Acquire(ctx, name, mlx.OnWait(waits))
	if err != nil {
		return nil, err
	}
	if s.config.Between != nil {
		lease.Model = s.config.Between(lease.Model)
	}
	info := lease.Model.Info()
	v := visitOf(ctx)
	v.model, v.engine = name, string(info.Engine)
	header(func(h http.Header) {
		h.Set(headerEngine, string(info.Engine))
		h.Set(headerReason, headerText(info.Reason))
	})
	return lease, nil
}

// headerText turns any text into a valid value of a header.
func headerText(text string) string {
	var b strings.Builder
	for _, c := range []byte(strings.Join(strings.Fields(text), " ")) {
		if c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// watcher passes what happens to an answer on to logs and metrics.
type watcher struct {
	*Server
	visit *visit
}

// FirstToken is called with the first token of an answer.
func (w watcher) FirstToken(after time.Duration) {
	w.metrics.firstToken(w.visit.model, after)
	w.visit.began(after)
}

// Over is called with how an answer ended.
func (w watcher) Over(o turn.Outcome) {
	w.visit.count(o.Prompt, o.Generated)
	w.metrics.tokens(w.visit.model, o)
}

// begin takes the model for a request and prepares its answer. The caller releases the lease.
func (s *Server) begin(ctx context.Context, q turn.Request, spec *turn.Spec, header func(func(http.Header)), waits func(mlx.Wait)) (*turn.Turn, *mlx.Lease, error) {
	lease, err := s.acquire(ctx, q.ModelName(), header, waits)
	if err != nil {
		return nil, nil, err
	}
	facts, err := s.facts.Of(lease.Path)
	if err == nil {
		var t *turn.Turn
		if t, err = turn.Prepare(ctx, lease.Model, facts, spec, s.settings()); err == nil {
			t.Watcher = watcher{s, visitOf(ctx)}
			header(func(h http.Header) { s.noteIn(ctx, h, spec.Notes) })
			return t, lease, nil
		}
	}
	lease.Release()
	return nil, nil, err
}

// loader is a request that may only want its model loaded, or unloaded.
type loader interface {
	Loads() bool
	Unloads() bool
	Loaded() any
}

// generating answers the requests of one API and route.
func (s *Server) generating(d *dialect, table *turn.Table, fresh func() turn.Request) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		q := fresh()
		notes, err := s.decode(w, r, table, q)
		if err != nil {
			return err
		}
		visitOf(r.Context()).names = q.Named()
		name := q.ModelName()
		if err := s.choose(&name); err != nil {
			return err
		}
		if q.ModelName() == "" {
			q.UseModel(name)
		}
		if l, ok := q.(loader); ok && l.Loads() {
			if l.Unloads() {
				return s.unload(w, r, q.ModelName(), func(string) any { return l.Loaded() })
			}
			return s.load(w, r, q.ModelName(), l.Loaded)
		}
		spec, err := q.Spec()
		if err != nil {
			return err
		}
		spec.Notes = notes
		if err := spec.Check(); err != nil {
			return err
		}
		if l, ok := q.(loader); ok && l.Unloads() {
			defer s.unloadAfter(q.ModelName())
		}
		if !q.Streams() {
			return s.whole(w, r, q, spec)
		}
		return s.streamed(w, r, d, q, spec)
	}
}

// unloadAfter closes a model whose last request, for now, has its answer.
func (s *Server) unloadAfter(model string) {
	name, err := s.resolve(model)
	if err == nil {
		_, err = s.config.Models.Unload(name)
	}
	if err != nil {
		s.log.Warn("not unloaded", "model", turn.Short(model, maxParam), "error", err)
	}
}

func (s *Server) whole(w http.ResponseWriter, r *http.Request, q turn.Request, spec *turn.Spec) error {
	t, lease, err := s.begin(r.Context(), q, spec, func(set func(http.Header)) { set(w.Header()) }, nil)
	if err != nil {
		return err
	}
	defer lease.Release()
	answer, err := q.AnswerWhole(r.Context(), t)
	if err != nil {
		return err
	}
	lease.Release()
	return s.writeJSON(r.Context(), w, http.StatusOK, answer)
}

func (s *Server) streamed(w http.ResponseWriter, r *http.Request, d *dialect, q turn.Request, spec *turn.Spec) error {
	out := s.newStream(r.Context(), w, d)
	defer out.close()
	t, lease, err := s.begin(r.Context(), q, spec, out.header, out.waits)
	if err == nil {
		defer lease.Release()
		err = q.AnswerStream(r.Context(), t, out)
	}
	if err == nil || !out.started() {
		return err // before the stream begins, an error has a status of its own
	}
	q.Fail(out, broken(r, err, q.Named()))
	return nil
}

// broken records why a stream that has begun is broken off, and returns the error for the client.
func broken(r *http.Request, err error, names turn.Names) *turn.Error {
	if ctx := r.Context(); ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	visitOf(r.Context()).err = err
	return explain(err, names)
}

// load loads a model and answers when it is there.
func (s *Server) load(w http.ResponseWriter, r *http.Request, model string, answer func() any) error {
	lease, err := s.acquire(r.Context(), model, func(set func(http.Header)) { set(w.Header()) }, nil)
	if err != nil {
		return err
	}
	lease.Release()
	return s.writeJSON(r.Context(), w, http.StatusOK, answer())
}

// unload closes a model without requests; one with requests stays loaded.
func (s *Server) unload(w http.ResponseWriter, r *http.Request, model string, answer func(name string) any) error {
	name, err := s.resolve(model)
	if err != nil {
		return err
	}
	if _, err := s.config.Models.Unload(name); err != nil {
		return err
	}
	return s.writeJSON(r.Context(), w, http.StatusOK, answer(name))
}

// withModel answers with what a model computes; the model is free again before the answer is written.
func (s *Server) withModel(w http.ResponseWriter, r *http.Request, model string, do func(ctx context.Context, m mlx.TextModel) (any, error)) error {
	lease, err := s.acquire(r.Context(), model, func(set func(http.Header)) { set(w.Header()) }, nil)
	if err != nil {
		return err
	}
	defer lease.Release()
	answer, err := do(r.Context(), lease.Model)
	if err != nil {
		return err
	}
	lease.Release()
	return s.writeJSON(r.Context(), w, http.StatusOK, answer)
}
