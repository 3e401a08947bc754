// Package server serves models over HTTP: OpenAI's and Anthropic's APIs, classification, and a chat page.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/cors"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"forge.lthn.ai/core/go-mlx/internal/page"
	"forge.lthn.ai/core/go-mlx/internal/registry"
)

// Config is what a server serves, and its limits. Zero limits are none.
type Config struct {
	Models *registry.Registry
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

	Page    bool // serve the chat page at /
	Version string
}

// Server is an http.Handler with a life cycle.
type Server struct {
	config    Config
	log       *slog.Logger
	handler   http.Handler
	metrics   *metrics
	responses *responseStore
	facts     factBook
	slots     chan struct{} // nil without a limit
	draining  atomic.Bool
	ended     context.Context // of all requests
	end       context.CancelCauseFunc
}

// errDraining ends requests that are still under way when the time for draining is over.
var errDraining = errors.New("the server is shutting down")

// New checks a configuration.
func New(c Config) (*Server, error) {
	if c.Models == nil {
		return nil, errors.New("a server needs models")
	}
	if c.MaxTokens <= 0 {
		c.MaxTokens = 2048
	}
	s := &Server{config: c, log: c.Log, metrics: newMetrics(c.Models), responses: newResponseStore(c.StoreBytes)}
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
	work := func(pattern string, d dialect, h handler) { api.Handle(pattern, s.work(d, h)) }
	work("POST /v1/chat/completions", openAI, s.chatCompletions)
	work("POST /v1/completions", openAI, s.completions)
	work("POST /v1/embeddings", openAI, s.embeddings)
	work("POST /v1/responses", openAI, s.createResponse)
	work("POST /v1/messages", anthropic, s.messages)
	work("POST /v1/messages/count_tokens", anthropic, s.countTokens)
	work("POST /v1/classify", openAI, s.classify)
	look := func(pattern string, h handler) { api.Handle(pattern, s.light(openAI, h)) }
	look("GET /v1/models", s.listModels)
	look("GET /v1/models/{model...}", s.getModel)
	look("GET /v1/responses/{id}", s.getResponse)
	look("DELETE /v1/responses/{id}", s.deleteResponse)
	look("GET /v1/status", s.status)
	api.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	api.Handle("/", s.light(openAI, func(w http.ResponseWriter, r *http.Request) error {
		return &apiError{Status: http.StatusNotFound, Kind: "not_found_error", Message: fmt.Sprintf("there is no %s %s", r.Method, r.URL.Path)}
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
			ExposedHeaders: []string{headerEngine, headerReason, headerRequestID, "request-id"}, MaxAge: 600,
		}).Handler(guarded)
	}
	h := s.observe(s.guardHost(guarded))
	if s.config.Tracer != nil {
		h = otelhttp.NewHandler(h, "http", otelhttp.WithTracerProvider(s.config.Tracer), otelhttp.WithPropagators(propagation.TraceContext{}),
			otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method + " " + r.URL.Path }))
	}
	return h, nil
}

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// ready says whether new requests are welcome.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if s.draining.Load() {
		http.Error(w, "shutting down", http.StatusServiceUnavailable)
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
	s.draining.Store(true)
	s.log.Info("draining", "for", drain.String())
	patience, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	err := h.Shutdown(patience)
	if errors.Is(err, context.DeadlineExceeded) {
		s.end(errDraining)
		patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err = h.Shutdown(patience); err != nil {
			err = errors.Join(fmt.Errorf("some clients were cut off: %w", err), h.Close())
		}
	}
	return err
}
