package bridge

import "time"

// Stat is a model's pool at one moment.
type Stat struct {
	Path    string
	Workers []WorkerStat
	Waiting int // requests in the queue

	Served      int64 // requests answered
	Refused     int64 // requests that found the queue full
	Abandoned   int64 // requests that were given up in the queue
	Resumed     int64 // times that a request went on after its worker's death
	Quarantined int   // requests that are refused because they ended two workers

	Starts  int64 // workers started
	Crashes int64 // workers that ended unasked
	// CrashesInARow counts those since the last request was served; RetryIn is how long no worker is
	// started because of them.
	CrashesInARow int
	RetryIn       time.Duration

	// What the last worker to load said: versions of its packages, and hashes of the model's tokenizer.json
	// and chat template.
	Versions                    Versions
	TokenizerHash, TemplateHash string

	Stops Stops // how cancelled requests stopped, on the workers alive
}

// WorkerStat is one worker at one moment.
type WorkerStat struct {
	PID        int    // 0 while it starts
	State      string // "waiting" (for memory), "starting", "ready", "draining" or "stopping"
	Generation int    // counts the model's resets, and changes of its weights
	Active     int    // requests under way
	Served     int64  // requests answered
	Device     string // that it was started for (see Options.Devices); empty for MLX's default

	Phase string        // what it last said it was doing: "idle", "load", "prefill", "decode", "score"
	Quiet time.Duration // since it last got something done

	ClaimedBytes     int64 // what it counts with in a host's memory budget
	ActiveBytes      int64 // MLX's account, by the last heartbeat
	CacheBytes       int64 // freed buffers that MLX keeps for reuse
	PeakBytes        int64 // largest ActiveBytes so far
	PromptCacheBytes int64 // KV kept for later requests; part of ActiveBytes
}

// Stat describes the model's workers and its queue.
func (m *Model) Stat() Stat {
	quarantined := m.quarantine.size() // which may wait for a disk: not with the pool's mutex held
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	retry, _ := p.startsIn(time.Now())
	s := Stat{
		Path: m.path, Waiting: len(p.waiters), Served: p.stats.served, Refused: p.stats.refused,
		Abandoned: p.stats.abandoned, Resumed: m.counters.resumed.Load(), Quarantined: quarantined,
		Starts: p.stats.starts, Crashes: p.stats.crashed,
		CrashesInARow: max(p.crashes.crashes, p.failures.crashes), RetryIn: retry,
	}
	if d := m.described.Load(); d != nil {
		s.Versions, s.TokenizerHash, s.TemplateHash = d.versions, d.tokenizerHash, d.templateHash
	}
	for _, member := range p.members {
		w := WorkerStat{State: member.state.String(), Generation: member.generation, Active: member.active, Served: member.served}
		if member.state != memberWaiting {
			w.ClaimedBytes = member.claim.Bytes()
		}
		if member.instance != nil {
			member.worker().describe(&w)
			member.worker().conn.addStops(&s.Stops)
		}
		s.Workers = append(s.Workers, w)
	}
	return s
}

func (w *worker) describe(s *WorkerStat) {
	s.Device = w.device
	s.PID = w.process.cmd.Process.Pid
	beat, quiet := w.watchdog.state()
	s.Phase, s.Quiet = beat.Phase, quiet
	s.ActiveBytes, s.CacheBytes, s.PeakBytes, s.PromptCacheBytes = beat.Active, beat.Cache, beat.Peak, beat.PromptCache
}

func (c *conn) addStops(s *Stops) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Count += c.stops.Count
	s.Tokens += c.stops.Tokens
	s.Longest = max(s.Longest, c.stops.Longest)
}
