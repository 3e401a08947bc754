// Package server serves models over HTTP: the APIs of OpenAI, Anthropic and Ollama, classification, and a chat page. The
// APIs themselves are in packages of their own, without HTTP.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/cors"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/page"
	"forge.lthn.ai/core/go-mlx/internal/server/anthropic"
	"forge.lthn.ai/core/go-mlx/internal/server/ollama"
	"forge.lthn.ai/core/go-mlx/internal/server/openai"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// Config is what a server serves, and its limits. Zero limits are none.
type Config struct {
	Models *mlx.Host
	Log    *slog.Logger // nil discards
	Tracer trace.TracerProvider

	APIKeys      []string // without any, everyone may ask
	CORSOrigins  []string // web pages that may ask, such as "https://example.com"
	AllowedHosts []string // names in the Host header besides localhost; "*" allows all. Not looked at with API keys

	MaxBody        int64         // bytes of a request
	MaxRequests    int           // at once; one more gets 429
	MaxTokens      int           // of an answer whose request sets no limit
	RequestTimeout time.Duration // of a whole request
	WriteTimeout   time.Duration // of one write to a client that does not read
	StoreBytes     int64         // of conversations kept for /v1/responses

	Aliases      []Alias
	DefaultModel string // for requests that name none; "" is the only one
	Strict       bool   // fields that would have no effect are refused
	BasePath     string // a prefix of all paths, such as "/lm"; "" for none

	// ReadyDelay is how long /readyz says no before the listener closes, so that whoever spreads requests sends no more.
	ReadyDelay time.Duration

	// Between stands between a loaded model and the requests for it, such as a script in tests of clients; nil for nothing.
	Between func(mlx.TextModel) mlx.TextModel

	Page    bool // serve the chat page at /
	Version string
}

// Server is an http.Handler with a life cycle.
type Server struct {
	config    Config
	log       *slog.Logger
	handler   http.Handler
	metrics   *metrics
	responses *openai.ResponseStore
	facts     turn.FactBook
	slots     chan struct{} // nil without a limit
	warming   atomic.Bool   // models are loaded before the first request
	leaving   atomic.Bool   // it will drain soon
	draining  atomic.Bool
	ended     context.Context // of all requests
	end       context.CancelCauseFunc
}

// New checks a configuration.
func New(c Config) (*Server, error) {
	if c.Models == nil {
		return nil, errors.New("a server needs models")
	}
	if c.MaxTokens <= 0 {
		c.MaxTokens = 2048
	}
	s := &Server{config: c, log: c.Log, metrics: newMetrics(c.Models), responses: openai.NewResponseStore(c.StoreBytes)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if c.MaxRequests > 0 {
		s.slots = make(chan struct{}, c.MaxRequests)
	}
	s.ended, s.end = context.WithCancelCause(context.Background())
	var err error
	if s.handler, err = s.routes(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Server) routes() (http.Handler, error) {
	api := http.NewServeMux()
	work := func(pattern string, d *dialect, h handler) { api.Handle(pattern, s.work(d, h)) }
	generate := func(d *dialect, table *turn.Table, fresh func() turn.Request) {
		work(table.Route, d, s.generating(d, table, fresh))
	}
	generate(openAI, openai.ChatFields, func() turn.Request { return &openai.ChatRequest{} })
	generate(openAI, openai.CompletionFields, func() turn.Request { return &openai.CompletionRequest{} })
	generate(responsesAPI, openai.ResponseFields, func() turn.Request { return &openai.ResponseRequest{Responses: s.responses} })
	generate(anthropicAPI, anthropic.MessageFields, func() turn.Request { return &anthropic.Request{} })
	generate(anthropicAPI, anthropic.CountFields, func() turn.Request { return &anthropic.Request{Counting: true} })
	generate(ollamaAPI, ollama.ChatFields, func() turn.Request { return &ollama.ChatRequest{} })
	generate(ollamaAPI, ollama.GenerateFields, func() turn.Request { return &ollama.GenerateRequest{} })
	work("POST /v1/embeddings", openAI, s.embeddings)
	work("POST /api/embed", ollamaAPI, s.ollamaEmbed)
	work("POST /v1/classify", openAI, s.classify)
	work("POST /v1/tokenize", openAI, s.tokenize)
	work("POST /v1/detokenize", openAI, s.detokenize)
	work("POST /tokenize", openAI, s.tokenize)
	work("POST /detokenize", openAI, s.detokenize)
	work("POST /v1/load", openAI, s.loadModel)
	work("POST /v1/unload", openAI, s.unloadModel)
	work("POST /api/show", ollamaAPI, s.ollamaShow)
	look := func(pattern string, d *dialect, h handler) { api.Handle(pattern, s.light(d, h)) }
	look("GET /v1/models", openAI, s.listModels)
	look("GET /v1/models/{model...}", openAI, s.getModel)
	look("GET /v1/responses/{id}", openAI, s.kept(s.responses.StoredResponse))
	look("GET /v1/responses/{id}/input_items", openAI, s.kept(s.responses.InputItems))
	look("DELETE /v1/responses/{id}", openAI, s.kept(s.responses.Delete))
	look("GET /v1/status", openAI, s.status)
	look("GET /api/tags", ollamaAPI, s.ollamaTags)
	look("GET /api/ps", ollamaAPI, s.ollamaPS)
	look("GET /api/version", ollamaAPI, s.ollamaVersion)
	api.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	api.Handle("/", s.light(openAI, func(w http.ResponseWriter, r *http.Request) error {
		return &turn.Error{Kind: turn.NotFound, Code: "not_found", Message: fmt.Sprintf("there is no %s %s", r.Method, r.URL.Path)}
	}))

	root := http.NewServeMux()
	root.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	root.HandleFunc("GET /readyz", s.ready)
	if s.config.Page {
		root.Handle("GET /{$}", page.Handler())
		root.Handle("GET /page/", page.Handler())
	}
	root.Handle("/", s.authenticate(api))

	guarded, err := s.guardOrigin(root)
	if err != nil {
		return nil, err
	}
	if len(s.config.CORSOrigins) > 0 {
		guarded = cors.New(cors.Options{
			AllowedOrigins: s.config.CORSOrigins, AllowedMethods: []string{"GET", "POST", "DELETE"}, AllowedHeaders: []string{"*"},
			ExposedHeaders: []string{headerEngine, headerReason, headerIgnored, headerRequestID, "request-id"}, MaxAge: 600,
		}).Handler(guarded)
	}
	h := s.observe(s.guardHost(s.below(guarded)))
	if s.config.Tracer != nil {
		h = otelhttp.NewHandler(h, "http", otelhttp.WithTracerProvider(s.config.Tracer), otelhttp.WithPropagators(propagation.TraceContext{}),
			otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method + " " + r.URL.Path }))
	}
	return h, nil
}

// below serves under the base path, and what tells of the server's health at the root, too.
func (s *Server) below(next http.Handler) http.Handler {
	base := strings.TrimSuffix(s.config.BasePath, "/")
	if base == "" {
		return next
	}
	mux := http.NewServeMux()
	mux.Handle(base+"/", http.StripPrefix(base, next))
	mux.Handle("GET /healthz", next)
	mux.Handle("GET /readyz", next)
	return mux
}

// Warm says that models are to be loaded before the first request: /readyz says no until the func that it returns, which loads
// them one after the other, has returned. Requests are served meanwhile.
func (s *Server) Warm(ctx context.Context) (load func() error) {
	s.warming.Store(true)
	return func() error {
		defer s.warming.Store(false)
		for _, name := range s.config.Models.Names() {
			lease, err := s.config.Models.Acquire(ctx, name)
			if err != nil {
				return err
			}
			lease.Release()
		}
		return nil
	}
}

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// ready says whether new requests are welcome.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	switch {
	case s.leaving.Load() || s.draining.Load():
		http.Error(w, "shutting down", http.StatusServiceUnavailable)
		return
	case s.warming.Load():
		http.Error(w, "loading models", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// Serve serves a listener until ctx ends. Then it takes no more requests, lets those under way end for as long as drain,
// ends the rest with an error, and returns. The models stay open.
func (s *Server) Serve(ctx context.Context, l net.Listener, drain time.Duration) error {
	h := &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	s.leaving.Store(true)
	if s.config.ReadyDelay > 0 {
		s.log.Info("leaving", "after", s.config.ReadyDelay.String())
		select {
		case err := <-failed:
			return err
		case <-time.After(s.config.ReadyDelay):
		}
	}
	s.draining.Store(true)
	s.log.Info("draining", "for", drain.String())
	patience, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	err := h.Shutdown(patience)
	if errors.Is(err, context.DeadlineExceeded) {
		s.end(turn.ErrDraining)
		patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err = h.Shutdown(patience); err != nil {
			err = errors.Join(fmt.Errorf("some clients were cut off: %w", err), h.Close())
		}
	}
	return err
}
