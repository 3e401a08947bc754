package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// Headers of answers.
const (
	headerEngine    = "X-Go-MLX-Engine"        // "native" or "python"
	headerReason    = "X-Go-MLX-Engine-Reason" // why that one
	headerIgnored   = "X-Go-MLX-Ignored"       // fields that had no effect
	headerRequestID = "X-Request-Id"
)

// handler answers a request or says why not. It returns an error only while nothing is written.
type handler func(w http.ResponseWriter, r *http.Request) error

// visit is the record of a request for logs and metrics.
type visit struct {
	id, route     string
	model, engine string
	body          []byte
	ignored       []string   // fields that had no effect
	names         turn.Names // what the API calls its fields
	status        int
	err           error

	mu                sync.Mutex // guards what follows: answers to one request may be generated side by side
	firstToken        time.Duration
	prompt, generated int
}

// began notes how long the first of a request's answers took to its first token.
func (v *visit) began(after time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.firstToken == 0 {
		v.firstToken = after
	}
}

// count adds tokens of one answer.
func (v *visit) count(prompt, generated int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.prompt += prompt
	v.generated += generated
}

type visitKey struct{}

// visitOf is the visit of a request of this server.
func visitOf(ctx context.Context) *visit {
	v, ok := ctx.Value(visitKey{}).(*visit)
	if !ok {
		return &visit{}
	}
	return v
}

// statusWriter notes the status.
type statusWriter struct {
	http.ResponseWriter
	visit *visit
}

func (w *statusWriter) WriteHeader(status int) {
	if w.visit.status == 0 {
		w.visit.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(data []byte) (int, error) {
	if w.visit.status == 0 {
		w.visit.status = http.StatusOK
	}
	return w.ResponseWriter.Write(data)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// observe gives a request its id, and records it when it is over.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := &visit{id: requestID(r)}
		w.Header().Set(headerRequestID, v.id)
		w.Header().Set("Request-Id", v.id)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		begin := time.Now()
		s.metrics.active.Inc()
		defer func() {
			s.metrics.active.Dec()
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.log.Error("panic", "request_id", v.id, "panic", p, "stack", string(debug.Stack()))
				if v.status == 0 {
					dialectOf(r).writeError(&statusWriter{w, v}, &turn.Error{Kind: turn.Internal, Code: "internal", Message: "a fault in the server; its log has more"})
				}
			}
			s.told(r, v, time.Since(begin))
		}()
		next.ServeHTTP(&statusWriter{w, v}, r.WithContext(context.WithValue(r.Context(), visitKey{}, v)))
	})
}

// told logs, counts and traces a request that is over.
func (s *Server) told(r *http.Request, v *visit, took time.Duration) {
	if v.err != nil && errors.Is(v.err, context.Canceled) {
		v.status = turn.ClientGone.Status()
	}
	s.metrics.request(v, took)
	level := slog.LevelInfo
	switch {
	case v.status >= 500:
		level = slog.LevelError
	case r.Method == http.MethodGet && v.status < 400:
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{
		slog.String("request_id", v.id), slog.String("method", r.Method), slog.String("path", r.URL.Path),
		slog.Int("status", v.status), slog.Duration("took", took), slog.String("remote", r.RemoteAddr),
	}
	if v.model != "" {
		attrs = append(attrs, slog.String("model", v.model), slog.String("engine", v.engine), slog.Int("prompt_tokens", v.prompt),
			slog.Int("generated_tokens", v.generated), slog.Duration("first_token", v.firstToken))
	}
	if len(v.ignored) > 0 {
		attrs = append(attrs, slog.Any("ignored", v.ignored))
	}
	if v.err != nil {
		attrs = append(attrs, slog.String("error", turn.Short(v.err.Error(), maxMessage)))
	}
	s.log.LogAttrs(r.Context(), level, "request", attrs...)
	trace.SpanFromContext(r.Context()).SetAttributes(
		attribute.String("go_mlx.request_id", v.id), attribute.String("gen_ai.request.model", v.model), attribute.String("go_mlx.engine", v.engine),
		attribute.Int("gen_ai.usage.input_tokens", v.prompt), attribute.Int("gen_ai.usage.output_tokens", v.generated),
		attribute.Float64("go_mlx.first_token_s", v.firstToken.Seconds()))
}

// requestID takes the client's own id if it is a plain one.
func requestID(r *http.Request) string {
	id := r.Header.Get(headerRequestID)
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
	}
	if id != "" && len(id) <= 128 && strings.IndexFunc(id, func(c rune) bool { return !plain(c) }) < 0 {
		return id
	}
	return turn.NewID("req_")
}

// guardHost refuses names that are not this server's: a web page whose name was pointed at this machine would otherwise
// count as the same origin (DNS rebinding). The names by which containers know their host cannot be registered by anybody. With API keys the page would not know one.
func (s *Server) guardHost(next http.Handler) http.Handler {
	allowed := append([]string{"localhost", "127.0.0.1", "::1", "host.docker.internal", "host.containers.internal"}, s.config.AllowedHosts...)
	for i, name := range allowed {
		allowed[i] = strings.ToLower(name)
	}
	if len(s.config.APIKeys) > 0 || slices.Contains(allowed, "*") {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
		if ip := net.ParseIP(host); !slices.Contains(allowed, host) && !ip.IsLoopback() {
			dialectOf(r).writeError(w, &turn.Error{
				Kind: turn.Forbidden, Code: "unknown_host",
				Message: "this server does not go by the name " + host + "; start it with --allowed-host, or with API keys",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// guardOrigin refuses what other web sites make a browser send.
func (s *Server) guardOrigin(next http.Handler) (http.Handler, error) {
	protection := http.NewCrossOriginProtection()
	for _, origin := range s.config.CORSOrigins {
		if err := protection.AddTrustedOrigin(origin); err != nil {
			return nil, err
		}
	}
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dialectOf(r).writeError(w, &turn.Error{Kind: turn.Forbidden, Code: "cross_origin", Message: "requests of other web sites are refused; --cors-origin allows one"})
	}))
	return protection.Handler(next), nil
}

// authenticate asks for an API key if there are any.
func (s *Server) authenticate(next http.Handler) http.Handler {
	var sums [][sha256.Size]byte
	for _, key := range s.config.APIKeys {
		sums = append(sums, sha256.Sum256([]byte(key)))
	}
	if len(sums) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		right := 0
		for _, given := range keysIn(r.Header) {
			sum := sha256.Sum256([]byte(given))
			for _, s := range sums {
				right |= subtle.ConstantTimeCompare(sum[:], s[:])
			}
		}
		if right == 0 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			dialectOf(r).writeError(w, &turn.Error{Kind: turn.Unauthorized, Code: "invalid_api_key", Message: "give an API key of this server as Authorization: Bearer KEY or X-Api-Key"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// keysIn are the API keys that a request gives. It may have one in each header: a client's own beside the one that a user set.
func keysIn(h http.Header) []string {
	keys := []string{h.Get("X-Api-Key")}
	if scheme, key, found := strings.Cut(h.Get("Authorization"), " "); found && strings.EqualFold(scheme, "Bearer") {
		keys = append(keys, strings.TrimSpace(key))
	}
	return keys
}

// light wraps handlers that need no model.
func (s *Server) light(d *dialect, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := visitOf(r.Context())
		v.route = r.Pattern
		if err := h(w, r); err != nil {
			v.err = err
			d.writeError(w, explain(err, v.names))
		}
	})
}

// work wraps handlers that use a model: it reads the body, and limits it, the time, and the number of requests at once.
func (s *Server) work(d *dialect, h handler) http.Handler {
	return s.light(d, func(w http.ResponseWriter, r *http.Request) error {
		if s.draining.Load() {
			return turn.ErrDraining
		}
		body, err := s.read(w, r)
		if err != nil {
			return err
		}
		visitOf(r.Context()).body = body
		if s.slots != nil {
			select {
			case s.slots <- struct{}{}:
				defer func() { <-s.slots }()
			default:
				return errNoRoom
			}
		}
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		defer context.AfterFunc(s.ended, func() { cancel(context.Cause(s.ended)) })()
		if s.config.RequestTimeout > 0 {
			var stop context.CancelFunc
			ctx, stop = s.limit(ctx, s.config.RequestTimeout)
			defer stop()
		}
		err = h(w, r.WithContext(ctx))
		// The engines report that the context ended; its cause says why.
		if err != nil && ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
			err = context.Cause(ctx)
		}
		return err
	})
}
