package bridge

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/admission"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// Model is a model served by a pool of Python workers. It is safe for concurrent use.
type Model struct {
	path       string
	pool       *pool
	quarantine *quarantine
	events     *mailbox[engine.Event]
	memory     *admission.Memory
	devices    *devices
	workerNeed func() int64 // bytes that a worker is expected to need; reads files
	expected   atomic.Int64 // the same when the model was last loaded
	described  atomic.Pointer[description]

	log    *slog.Logger
	endLog func() // returns when the logger has seen everything

	// requests counts those under way, for Shutdown.
	requests struct {
		mu      sync.Mutex // guards what follows
		active  int
		closing bool       // no more are let in
		empty   *sync.Cond // active may have become 0
	}

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

	tokenizerHash, templateHash, fingerprint string
}

// Load starts workers and loads the model in each.
func Load(ctx context.Context, path string, options Options) (*Model, error) {
	cmd, err := workerCommand(options)
	if err != nil {
		return nil, err
	}
	return load(ctx, path, options, cmd)
}

// workerCommand is what starts a worker.
func workerCommand(options Options) (command, error) {
	if err := platform(); err != nil {
		return command{}, err
	}
	interpreter, err := FindPython(options.Python)
	if err != nil {
		return command{}, err
	}
	return command{name: interpreter, env: environment(options.Online), source: workerSource}, nil
}

func load(ctx context.Context, path string, options Options, cmd command) (*Model, error) {
	o, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil { // workers run in another folder
		return nil, err
	}
	m := &Model{path: path, memory: admission.FromContext(ctx), events: newEvents(o.Events)}
	m.log, m.endLog = newQueuedLog(o.Logger.With("model", path))
	if m.memory == nil {
		m.memory = admission.New(admission.Options{}).Join(path)
	}
	m.workerNeed = func() int64 { return modelfiles.Need(path, o.Draft, o.Adapter) + o.PromptCache }
	m.expected.Store(m.workerNeed())
	m.devices = newDevices(o.Devices)
	cmd.env = append(slices.Clip(cmd.env), o.Environment...)
	cmd.dir = cmp.Or(o.Dir, cmd.dir)
	request := loadRequest{
		Path: path, TrustRemoteCode: o.TrustRemoteCode, Adapter: o.Adapter, Draft: o.Draft, Batch: o.Batch, PromptCache: o.PromptCache,
	}
	m.quarantine = &quarantine{
		dir: o.QuarantineDir, load: request, create: createPrivate, suspicion: suspicion,
		versions: func() Versions { return m.described.Load().versions },
	}
	m.requests.empty = sync.NewCond(&m.requests.mu)
	l := limits{min: o.MinWorkers, max: o.Workers, rows: o.Batch, queue: o.Queue, idle: o.IdleTTL}
	claim := func(u admission.Urgency) *admission.Claim { return m.memory.Claim(m.expected.Load(), u) }
	m.pool = newPool(l, claim, func(ctx context.Context, c *admission.Claim) (instance, error) {
		device, release := m.devices.take()
		ready, err := cmd.on(device).ready()
		var w *worker
		if err == nil {
			w, err = m.start(ctx, ready, o, request, c)
		}
		if err != nil {
			release()
			return nil, err // not w: a nil *worker in an interface is not nil
		}
		w.device = device
		go func() {
			<-w.done()
			release()
			m.blameGivenUp(w)
		}()
		return w, nil
	})
	m.pool.onWait = func(w engine.Wait) {
		m.log.Info("python worker waits for memory", "wait", w.String())
		m.events.put(engine.Event{Kind: engine.EventWait, Label: w.String()})
	}
	m.pool.onCrash = func(err error) {
		m.log.Warn("python worker ended unasked", "error", err)
		m.events.put(engine.Event{Kind: engine.EventRestart, Err: err})
	}
	if err := m.pool.ensure(ctx, max(1, o.MinWorkers)); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

// start starts one worker and loads the model in it. Its claim is then set to the memory that the worker reports.
func (m *Model) start(ctx context.Context, cmd command, o Options, request loadRequest, claim *admission.Claim) (*worker, error) {
	expected := m.expected.Load()
	w, err := startWorker(ctx, cmd, o.StallTimeout, listener{
		beat:    func(b *message) { claim.Resize(max(expected, b.Active)) },
		settled: func() { m.pool.settled() },
		bar: func(b bar) {
			m.events.put(engine.Event{Kind: engine.EventOutput, Label: b.label, Done: b.done, Total: b.total})
		},
		line: func(line string) { m.log.Debug("python worker printed", "line", line) },
	})
	if err != nil {
		return nil, err
	}
	m.log.Info("python worker started", "pid", w.process.cmd.Process.Pid)
	err = w.load(ctx, request, func(p *message) {
		m.events.put(engine.Event{Kind: engine.EventLoad, Done: p.Done, Total: p.Total})
	})
	if err != nil {
		if ctx.Err() != nil { // nobody waits for a worker that is stopped, or hangs, to end by itself
			w.kill()
		} else {
			w.stop()
		}
		return nil, err
	}
	before := m.described.Swap(describe(m.path, w.info, w.versions))
	if before != nil && before.fingerprint != w.info.Fingerprint {
		m.log.Info("the model's files have changed: workers with the old ones take no more requests")
		m.expected.Store(m.workerNeed())
	}
	return w, nil
}

func describe(path string, i *workerInfo, v Versions) *description {
	return &description{
		info: engine.Info{
			Path: path, Engine: "python", Architecture: i.Architecture, Device: i.Device, Layers: i.Layers,
			HiddenSize: i.HiddenSize, VocabSize: i.VocabSize, ContextLength: i.ContextLength, DType: i.DType,
			Quantization: i.Quantization, Parameters: i.Parameters, WeightBytes: i.WeightBytes, MLXVersion: v.MLX,
		},
		template: i.HasTemplate,
		versions: v, tokenizerHash: i.TokenizerHash, templateHash: i.TemplateHash, fingerprint: i.Fingerprint,
	}
}

// call gives one request a slot on a worker of the pool and waits for its reply. A request whose worker dies is
// given to another one. It returns the fingerprint of the weights that served it.
func (m *Model) call(ctx context.Context, r slotRequest) (reply *message, weights string, err error) {
	j := &job{model: m, frame: r, onGap: func(error) {}, made: func() []int32 { return nil }, left: func() bool { return false }, key: keyOf(r.copy())}
	err = j.run(ctx, func(v visit) (err error) {
		e, err := v.worker.conn.begin(r, false)
		if err != nil {
			return err
		}
		v.begun(e.id)
		defer v.worker.conn.end(e)
		reply, err = v.worker.conn.next(ctx, e, nil)
		return err
	})
	return reply, j.weights, err
}

// begin counts a request until the returned func is called.
func (m *Model) begin() (end func(), err error) {
	r := &m.requests
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return nil, engine.ErrClosed
	}
	r.active++
	m.counters.requests.Add(1)
	m.counters.active.Add(1)
	return func() {
		m.counters.active.Add(-1)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.active--; r.active == 0 {
			r.empty.Broadcast()
		}
	}, nil
}

// Encode returns token ids.
func (m *Model) Encode(ctx context.Context, text string, special bool) ([]int32, error) {
	if err := engine.CheckUTF8(text); err != nil {
		return nil, err
	}
	reply, err := m.small(ctx, &encodeRequest{head: head{Type: "encode"}, Text: text, Special: special})
	if err != nil {
		return nil, err
	}
	return reply.IDs, nil
}

// Decode returns text without special tokens.
func (m *Model) Decode(ctx context.Context, ids []int32) (string, error) {
	if err := m.checkIDs(ids); err != nil {
		return "", err
	}
	reply, err := m.small(ctx, &decodeRequest{head: head{Type: "decode"}, IDs: append([]int32{}, ids...)})
	if err != nil {
		return "", err
	}
	return reply.Text, nil
}

// RenderChat applies the chat template and opens the assistant's turn.
func (m *Model) RenderChat(ctx context.Context, messages []engine.Message, options engine.GenerateOptions) (string, error) {
	request, err := chatRequest(messages, options)
	if err != nil {
		return "", err
	}
	reply, err := m.small(ctx, request)
	if err != nil {
		return "", err
	}
	return reply.Text, nil
}

// EncodeChat returns the ids of the prompt that Generate makes of messages.
func (m *Model) EncodeChat(ctx context.Context, messages []engine.Message, options engine.GenerateOptions) ([]int32, error) {
	request, err := chatRequest(messages, options)
	if err != nil {
		return nil, err
	}
	request.Plain, request.IDs = options.PlainContent, true
	reply, err := m.small(ctx, request)
	if err != nil {
		return nil, err
	}
	return reply.IDs, nil
}

func chatRequest(messages []engine.Message, options engine.GenerateOptions) (*renderRequest, error) {
	if err := (engine.Prompt{Messages: messages}).Validate(); err != nil {
		return nil, err
	}
	if err := options.ValidateTemplate(); err != nil {
		return nil, err
	}
	arguments, err := jsonText(options.TemplateArguments, len(options.TemplateArguments) > 0)
	if err != nil {
		return nil, err
	}
	text, err := jsonText(messages, true)
	if err != nil {
		return nil, err
	}
	return &renderRequest{head: head{Type: "render"}, Messages: text, Tools: string(options.Tools), TemplateArguments: arguments}, nil
}

// Info describes the model.
func (m *Model) Info() engine.Info { return m.described.Load().info }

// metricsWait is how long Metrics waits for a worker that computes before it takes what its last heartbeat said.
const metricsWait = 500 * time.Millisecond

// Metrics reads counters, and the memory figures of one worker. It starts no worker, and keeps none from ending.
func (m *Model) Metrics(ctx context.Context) (engine.Metrics, error) {
	if err := ctx.Err(); err != nil {
		return engine.Metrics{}, err
	}
	out := engine.Metrics{
		Requests: m.counters.requests.Load(), Active: m.counters.active.Load(), PromptTokens: m.counters.prompt.Load(),
		GeneratedTokens: m.counters.generated.Load(), Classified: m.counters.classified.Load(), WeightBytes: m.Info().WeightBytes,
		Workers: m.pool.workers(),
	}
	member, err := m.pool.peek()
	if member == nil || err != nil {
		return out, err
	}
	w := member.worker()
	short, cancel := context.WithTimeout(ctx, metricsWait)
	defer cancel()
	figures, err := w.conn.call(short, &bareRequest{head{Type: "memory"}}, nil)
	if err != nil {
		last, _ := w.watchdog.state()
		figures = &last
	}
	out.ActiveBytes, out.CacheBytes, out.PeakBytes, out.PromptCacheBytes = figures.Active, figures.Cache, figures.Peak, figures.PromptCache
	return out, ctx.Err()
}

// Reset loads the model anew from its folder, for weights that changed, and returns when the first worker
// has done so. Requests under way end on the old weights. Quarantined requests are tried again.
func (m *Model) Reset(ctx context.Context) error {
	m.quarantine.clear()
	m.expected.Store(m.workerNeed())
	return m.pool.reset(ctx)
}

// Shutdown lets no more requests in, waits until those under way have ended, and closes the model. If ctx ends first, the model
// is closed at once, requests under way end with engine.ErrClosed, and ctx's error is returned.
func (m *Model) Shutdown(ctx context.Context) error {
	r := &m.requests
	stop := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.empty.Broadcast()
	})
	defer stop()
	r.mu.Lock()
	r.closing = true
	for r.active > 0 && ctx.Err() == nil {
		r.empty.Wait()
	}
	err := ctx.Err()
	if r.active == 0 {
		err = nil
	}
	r.mu.Unlock()
	return errors.Join(err, m.Close())
}

// Close ends the workers and returns when all processes are gone. Streams under way end with
// engine.ErrClosed. It may be called again.
func (m *Model) Close() error {
	m.closing.Do(func() {
		m.pool.close()
		m.events.close()
		m.endLog()
	})
	return nil
}
