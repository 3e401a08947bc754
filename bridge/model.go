package bridge

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"forge.lthn.ai/core/go-mlx/internal/engine"
)

// Model is a model served by a pool of Python workers. It is safe for concurrent use.
type Model struct {
	path       string
	pool       *pool
	quarantine *quarantine
	supervisor *Supervisor
	events     *eventQueue
	expected   int64        // bytes that a worker will need
	reserved   atomic.Int64 // bytes set aside for its workers
	pinned     atomic.Bool
	described  atomic.Pointer[description]

	counters struct {
		requests, active, prompt, generated, classified, resumed atomic.Int64
	}

	closing sync.Once
}

// description is what the last worker to load said of the model.
type description struct {
	info     engine.Info
	template bool
	versions Versions

	tokenizerHash, templateHash string
}

// Load starts workers and loads the model in each.
func Load(ctx context.Context, path string, options Options) (*Model, error) {
	interpreter, err := FindPython(options.Python)
	if err != nil {
		return nil, err
	}
	source, err := workerSource()
	if err != nil {
		return nil, err
	}
	return load(ctx, path, options, command{
		name: interpreter, args: []string{"-m", "go_mlx_worker"}, env: environment(source, options.Online),
	})
}

func load(ctx context.Context, path string, options Options, cmd command) (*Model, error) {
	o, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Model{path: path, supervisor: o.Supervisor, events: newEventQueue(o.Events)}
	if m.supervisor == nil {
		m.supervisor = NewSupervisor(0)
	}
	m.expected = checkpointBytes(path, o.Draft) + o.PromptCache
	request := loadRequest{
		Path: path, TrustRemoteCode: o.TrustRemoteCode, Adapter: o.Adapter, Draft: o.Draft, Batch: o.Batch, PromptCache: o.PromptCache,
	}
	m.quarantine = &quarantine{
		dir: o.QuarantineDir, load: request, create: createPrivate,
		versions: func() Versions { return m.described.Load().versions },
	}
	l := limits{min: o.MinWorkers, max: o.Workers, rows: o.Batch, queue: o.Queue, idle: o.IdleTTL}
	m.pool = newPool(l, func(ctx context.Context) (*worker, error) {
		if err := m.supervisor.admit(ctx, m, m.expected); err != nil {
			return nil, err
		}
		m.reserved.Add(m.expected)
		w, err := m.start(ctx, cmd, o, request)
		if err != nil {
			m.giveBack()
			return nil, err
		}
		return w, nil
	})
	m.pool.onGone = m.giveBack
	m.pool.onIdle = m.supervisor.notify
	m.pool.onCrash = func(err error) { m.events.put(engine.Event{Kind: engine.EventRestart, Err: err}) }
	m.supervisor.add(m)
	if err := m.pool.warm(ctx, max(1, o.MinWorkers)); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

// start starts one worker and loads the model in it.
func (m *Model) start(ctx context.Context, cmd command, o Options, request loadRequest) (*worker, error) {
	w, err := startWorker(ctx, cmd, o.StallTimeout, func(b bar) {
		m.events.put(engine.Event{Kind: engine.EventOutput, Label: b.label, Done: b.done, Total: b.total})
	})
	if err != nil {
		return nil, err
	}
	err = w.load(ctx, request, func(p *message) {
		m.events.put(engine.Event{Kind: engine.EventLoad, Done: p.Done, Total: p.Total})
	})
	if err != nil {
		w.stop()
		return nil, err
	}
	m.described.Store(describe(m.path, w.info, w.versions))
	return w, nil
}

// giveBack returns the memory of a worker that is gone.
func (m *Model) giveBack() {
	m.reserved.Add(-m.expected)
	m.supervisor.release(m.expected)
}

func describe(path string, i *workerInfo, v Versions) *description {
	return &description{
		info: engine.Info{
			Path: path, Engine: "python", Architecture: i.Architecture, Device: i.Device, Layers: i.Layers,
			HiddenSize: i.HiddenSize, VocabSize: i.VocabSize, ContextLength: i.ContextLength, DType: i.DType,
			Quantization: i.Quantization, Parameters: i.Parameters, WeightBytes: i.WeightBytes, MLXVersion: v.MLX,
		},
		template: i.HasTemplate,
		versions: v, tokenizerHash: i.TokenizerHash, templateHash: i.TemplateHash,
	}
}

// call gives one request to a worker of the pool and waits for its reply. A request whose worker dies is
// given to another one.
func (m *Model) call(ctx context.Context, r request) (*message, error) {
	j := &journey{
		model: m, frame: r, onGap: func(error) {}, made: func() []int32 { return nil },
		key: func() (requestKey, error) {
			r.header().ID = 0
			return keyOf(r)
		},
	}
	var reply *message
	err := j.run(ctx, func(w *worker, _ func()) (err error) {
		reply, err = w.conn.call(ctx, r, nil)
		return err
	})
	return reply, err
}

// begin counts a request until the returned func is called.
func (m *Model) begin() (end func()) {
	m.counters.requests.Add(1)
	m.counters.active.Add(1)
	return func() { m.counters.active.Add(-1) }
}

// Embed: mlx-lm has no embeddings.
func (m *Model) Embed(context.Context, []string, engine.EmbedOptions) ([][]float32, error) {
	return nil, &engine.OptionError{Option: "Embed", Reason: "only the native engine has it"}
}

// classifyChunk is how many texts travel in one request: a cancelled call stops between batches, and
// several workers share a long list.
const classifyChunk = 256

// Classify scores labels; see engine.Engine. Long lists are spread over the workers.
func (m *Model) Classify(ctx context.Context, texts []string, options engine.ClassifyOptions) ([]engine.Classification, error) {
	if err := options.Validate(texts); err != nil {
		return nil, err
	}
	defer m.begin()()
	labels := options.Labels
	if !m.described.Load().template {
		labels = make([]string, len(options.Labels))
		for i, label := range options.Labels {
			labels[i] = engine.PlainLabel(label)
		}
	}
	results := make([]engine.Classification, len(texts))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	limit := make(chan struct{}, m.pool.limits.max)
	for from := 0; from < len(texts); from += classifyChunk {
		limit <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		to := min(from+classifyChunk, len(texts))
		group.Go(func() {
			defer func() { <-limit }()
			if err := m.classifyPart(ctx, from, texts[from:to], labels, options, results[from:to]); err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return results, nil
}

// classifyPart serves texts from the given index of the call on.
func (m *Model) classifyPart(ctx context.Context, from int, texts, labels []string, options engine.ClassifyOptions, results []engine.Classification) error {
	prompts, template := make([]string, len(texts)), m.described.Load().template
	for i, text := range texts {
		prompts[i] = options.UserText(text)
		if !template {
			prompts[i] = engine.PlainPrompt(prompts[i])
		}
	}
	reply, err := m.call(ctx, &classifyRequest{head: head{Type: "classify"}, From: from, Texts: prompts, Labels: labels})
	if err != nil {
		return err
	}
	if len(reply.Scores) != len(texts) {
		return fmt.Errorf("%w: scores for %d texts, want %d", errProtocol, len(reply.Scores), len(texts))
	}
	for i, scores := range reply.Scores {
		if results[i], err = options.Result(scores); err != nil {
			return fmt.Errorf("text %d: %w", from+i, err)
		}
	}
	m.counters.classified.Add(int64(len(texts)))
	return nil
}

// Encode returns token ids.
func (m *Model) Encode(ctx context.Context, text string, special bool) ([]int32, error) {
	if err := engine.CheckUTF8(text); err != nil {
		return nil, err
	}
	reply, err := m.call(ctx, &encodeRequest{head: head{Type: "encode"}, Text: text, Special: special})
	if err != nil {
		return nil, err
	}
	return reply.IDs, nil
}

// Decode returns text without special tokens.
func (m *Model) Decode(ctx context.Context, ids []int32) (string, error) {
	reply, err := m.call(ctx, &decodeRequest{head: head{Type: "decode"}, IDs: append([]int32{}, ids...)})
	if err != nil {
		return "", err
	}
	return reply.Text, nil
}

// RenderChat applies the chat template and opens the assistant's turn.
func (m *Model) RenderChat(ctx context.Context, messages []engine.Message, options engine.GenerateOptions) (string, error) {
	if err := (engine.Prompt{Messages: messages}).Validate(); err != nil {
		return "", err
	}
	text, err := jsonText(messages, true)
	if err != nil {
		return "", err
	}
	arguments, err := jsonText(options.TemplateArguments, len(options.TemplateArguments) > 0)
	if err != nil {
		return "", err
	}
	reply, err := m.call(ctx, &renderRequest{head: head{Type: "render"}, Messages: text, Tools: string(options.Tools), TemplateArguments: arguments})
	if err != nil {
		return "", err
	}
	return reply.Text, nil
}

// Info describes the model.
func (m *Model) Info() engine.Info { return m.described.Load().info }

// Metrics reads counters, and the memory figures of one worker.
func (m *Model) Metrics(ctx context.Context) (engine.Metrics, error) {
	reply, err := m.call(ctx, &bareRequest{head{Type: "memory"}})
	if err != nil {
		return engine.Metrics{}, err
	}
	return engine.Metrics{
		Requests: m.counters.requests.Load(), Active: m.counters.active.Load(), PromptTokens: m.counters.prompt.Load(),
		GeneratedTokens: m.counters.generated.Load(), Classified: m.counters.classified.Load(), WeightBytes: m.Info().WeightBytes,
		ActiveBytes: reply.Active, CacheBytes: reply.Cache, PeakBytes: reply.Peak, PromptCacheBytes: reply.PromptCache, Workers: m.pool.workers(),
	}, nil
}

// Pin keeps the model's workers from being ended to make room for another model of its Supervisor.
func (m *Model) Pin() { m.pinned.Store(true) }

// Unpin undoes Pin.
func (m *Model) Unpin() {
	m.pinned.Store(false)
	m.supervisor.notify()
}

// Reset loads the model anew from its folder, for weights that changed, and returns when the first worker
// has done so. Requests under way end on the old weights. Quarantined requests are tried again.
func (m *Model) Reset(ctx context.Context) error {
	m.quarantine.clear()
	return m.pool.reset(ctx)
}

// Close ends the workers and returns when all processes are gone. Streams under way end with
// engine.ErrClosed. It may be called again.
func (m *Model) Close() error {
	m.closing.Do(func() {
		m.pool.close()
		m.supervisor.remove(m)
		m.events.close()
	})
	return nil
}
