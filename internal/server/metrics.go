package server

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// metrics are what Prometheus reads at /metrics.
type metrics struct {
	registry *prometheus.Registry

	requests        *prometheus.CounterVec
	duration, first *prometheus.HistogramVec
	active          prometheus.Gauge
	token           *prometheus.CounterVec
	texts           *prometheus.CounterVec
}

func newMetrics(models *mlx.Host) *metrics {
	seconds := []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "go_mlx_requests_total", Help: "Requests that are over."}, []string{"route", "model", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "go_mlx_request_seconds", Help: "Time of whole requests.", Buckets: seconds}, []string{"route", "model"}),
		first:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "go_mlx_first_token_seconds", Help: "Time from the start of an answer to its first token.", Buckets: seconds}, []string{"model"}),
		active:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "go_mlx_requests_active", Help: "Requests under way."}),
		token:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "go_mlx_tokens_total", Help: "Tokens of prompts and of answers."}, []string{"model", "kind"}),
		texts:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "go_mlx_classified_texts_total", Help: "Texts classified."}, []string{"model"}),
	}
	m.registry.MustRegister(m.requests, m.duration, m.first, m.active, m.token, m.texts, modelCollector{models},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) request(v *visit, took time.Duration) {
	route := cmp.Or(v.route, "other")
	m.requests.WithLabelValues(route, v.model, strconv.Itoa(v.status)).Inc()
	m.duration.WithLabelValues(route, v.model).Observe(took.Seconds())
}

func (m *metrics) firstToken(model string, after time.Duration) {
	m.first.WithLabelValues(model).Observe(after.Seconds())
}

func (m *metrics) tokens(model string, o turn.Outcome) {
	m.token.WithLabelValues(model, "prompt").Add(float64(o.Prompt))
	m.token.WithLabelValues(model, "generated").Add(float64(o.Generated))
}

func (m *metrics) classified(model string, texts int) {
	m.texts.WithLabelValues(model).Add(float64(texts))
}

// modelCollector reads the models' states when Prometheus asks.
type modelCollector struct{ models *mlx.Host }

var (
	loadedDesc  = prometheus.NewDesc("go_mlx_model_loaded", "1 while the model is loaded.", []string{"model", "engine"}, nil)
	loadsDesc   = prometheus.NewDesc("go_mlx_model_loads_total", "How often the model was loaded.", []string{"model"}, nil)
	evictDesc   = prometheus.NewDesc("go_mlx_model_evictions_total", "How often the model was closed to make room.", []string{"model"}, nil)
	leasesDesc  = prometheus.NewDesc("go_mlx_model_requests_active", "Requests that use the model.", []string{"model"}, nil)
	memoryDesc  = prometheus.NewDesc("go_mlx_model_bytes", "Memory of a loaded model by kind; active, cache and peak are MLX's account of the process.", []string{"model", "kind"}, nil)
	workersDesc = prometheus.NewDesc("go_mlx_model_workers", "Python workers alive.", []string{"model"}, nil)
)

// Describe sends nothing, which Prometheus takes for a collector whose series may change.
func (c modelCollector) Describe(chan<- *prometheus.Desc) {}

// Collect reads all models.
func (c modelCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for _, s := range c.models.State().Models {
		out <- prometheus.MustNewConstMetric(loadsDesc, prometheus.CounterValue, float64(s.Loads), s.Name)
		out <- prometheus.MustNewConstMetric(evictDesc, prometheus.CounterValue, float64(s.Evictions), s.Name)
		gauge(leasesDesc, float64(s.Active), s.Name)
		if s.Model == nil {
			gauge(loadedDesc, 0, s.Name, "")
			continue
		}
		gauge(loadedDesc, 1, s.Name, string(s.Model.Info().Engine))
		m, err := metricsOf(context.Background(), s.Model)
		if err != nil { // busy, or closed meanwhile
			continue
		}
		for kind, bytes := range map[string]int64{
			"weights": m.WeightBytes, "kv": m.KVBytes + m.CachedKVBytes, "prompt_cache": m.PromptCacheBytes,
			"active": m.ActiveBytes, "cache": m.CacheBytes, "peak": m.PeakBytes,
		} {
			gauge(memoryDesc, float64(bytes), s.Name, kind)
		}
		gauge(workersDesc, float64(m.Workers), s.Name)
	}
}
