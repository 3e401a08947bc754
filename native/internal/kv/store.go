package kv

import (
	"errors"
	"math"
	"slices"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// DefaultBudget is how many bytes a store holds where nobody has said.
const DefaultBudget = 256 << 20

// Store keeps the KV of earlier requests for later ones that begin with the same tokens: a trie of token ids whose nodes have the
// KV of the whole path from the root. Chats find the KV of earlier turns there, classification that of the instruction before its
// texts. A store can be written to a file and read from one. When the budget is exceeded, the least recently used KV is dropped.
//
// Two requests never share a cache that one of them writes to: MLX arrays do not change, and a request that goes on from kept KV makes arrays
// of its own. A sequence is given out for exactly the tokens it was computed from. To take a longer one and forget its end is right
// only where nothing was overwritten; a sliding window that has moved on cannot go back (see RotatingCache.Trim), so such a
// sequence is not used. A store belongs to the owner thread.
type Store struct {
	budget int64
	held   [uses]int64 // bytes
	root   *storeNode
	recent *simplelru.LRU[*keptKV, struct{}]
}

// Use is what KV is kept for.
type Use int

// What KV is kept for: prompts that begin alike, and the instruction before the texts of a classification.
const (
	ForPrompts Use = iota
	ForPrefixes
	uses
)

// storeNode is a place in the trie.
type storeNode struct {
	edge     []int32 // tokens between the parent and this node
	parent   *storeNode
	children map[int32]*storeNode // by the first token of their edge
	sequence *keptKV              // of all tokens from the root to here, or nil
	history  *keptKV              // the same in the other form, or nil
}

// keptKV is a sequence or a history.
type keptKV struct {
	node     *storeNode
	use      Use
	bytes    int64
	sequence *Sequence
	history  *History
}

func (k *keptKV) free() error {
	if k.sequence != nil {
		return k.sequence.Free()
	}
	return k.history.Free()
}

// minBranch is how many tokens two prompts must share for a sequence to be kept at the place where they begin to differ.
const minBranch = 16

// NewStore makes an empty store of a budget in bytes.
func NewStore(budget int64) *Store {
	recent, err := simplelru.NewLRU[*keptKV, struct{}](math.MaxInt, nil) // bounded by bytes, see Shrink
	if err != nil {
		panic(err) // of sizes below 1 only
	}
	return &Store{budget: budget, root: &storeNode{children: map[int32]*storeNode{}}, recent: recent}
}

// Bytes is what is held for a use.
func (c *Store) Bytes(u Use) int64 { return c.held[u] }

// Total is all that is held, in bytes.
func (c *Store) Total() int64 {
	var n int64
	for _, held := range c.held {
		n += held
	}
	return n
}

// Find returns a sequence of the longest beginning of ids that it can, for the caller to own, and the length
// of that; nil if there is none. branch is where ids begin to differ from an earlier request, if that is later.
func (c *Store) Find(s *mlxc.Scope, ids []int32) (st *Sequence, n, branch int) {
	node, depth := c.root, 0
	var best *storeNode
	for {
		if node.sequence != nil {
			best, n = node, depth
		}
		child := node.children[at(ids, depth)]
		if child == nil {
			break
		}
		shared := CommonLength(child.edge, ids[depth:])
		depth += shared
		node = child
		if shared < len(child.edge) {
			break
		}
	}
	// Below the last node all sequences begin with ids[:depth].
	if node != best && depth > n {
		if trimmed := c.trimmed(s, node, depth); trimmed != nil {
			return trimmed, depth, depth
		}
	}
	if depth > n && depth >= minBranch {
		branch = depth
	}
	if best == nil {
		return nil, 0, branch
	}
	c.touch(best.sequence)
	return best.sequence.sequence.Share(s), n, branch
}

// trimmed looks below a node for a sequence that can go back to its first n tokens.
func (c *Store) trimmed(s *mlxc.Scope, node *storeNode, n int) *Sequence {
	if kept := node.sequence; kept != nil {
		st := kept.sequence.Share(s)
		if st.Trim(s, st.Position()-n) {
			c.touch(kept)
			return st
		}
		if err := st.Free(); err != nil {
			s.Fail(err)
		}
	}
	for _, child := range node.children {
		if st := c.trimmed(s, child, n); st != nil {
			return st
		}
	}
	return nil
}

// FindHistory returns the history of exactly these tokens, for the caller to own, or nil.
func (c *Store) FindHistory(s *mlxc.Scope, ids []int32) *History {
	node := c.root
	for len(ids) > 0 {
		child := node.children[ids[0]]
		if child == nil || CommonLength(child.edge, ids) < len(child.edge) {
			return nil
		}
		node, ids = child, ids[len(child.edge):]
	}
	if node.history == nil {
		return nil
	}
	c.touch(node.history)
	return node.history.history.Share(s)
}

// Keep stores a sequence under the tokens that it has seen. The caller still owns st: the store makes a sequence of its own on the same
// arrays. What is larger than the whole budget is not stored.
func (c *Store) Keep(s *mlxc.Scope, ids []int32, st *Sequence, use Use) error {
	place := func(n *storeNode) **keptKV { return &n.sequence }
	return c.keep(s, ids, use, st.Bytes(), place, func() *keptKV { return &keptKV{sequence: st.Share(s)} })
}

// KeepHistory is Keep for a history.
func (c *Store) KeepHistory(s *mlxc.Scope, ids []int32, h *History, use Use) error {
	place := func(n *storeNode) **keptKV { return &n.history }
	return c.keep(s, ids, use, h.Bytes(), place, func() *keptKV { return &keptKV{history: h.Share(s)} })
}

// keep stores what share makes, unless the place in the node of ids is taken: then that KV is marked as used.
func (c *Store) keep(s *mlxc.Scope, ids []int32, use Use, size int64, place func(*storeNode) **keptKV, share func() *keptKV) error {
	if size > c.budget || len(ids) == 0 {
		return nil
	}
	node := c.node(ids)
	kept := place(node)
	if *kept == nil {
		shared := share()
		if s.Err() != nil { // KV of which parts are missing must not be kept
			c.prune(node)
			return errors.Join(s.Err(), shared.free())
		}
		shared.node, shared.use, shared.bytes = node, use, size
		*kept = shared
		c.held[use] += size
	}
	c.touch(*kept)
	return c.Shrink(c.budget)
}

// node finds or makes the node of ids.
func (c *Store) node(ids []int32) *storeNode {
	node := c.root
	for len(ids) > 0 {
		child := node.children[ids[0]]
		if child == nil {
			child = &storeNode{edge: slices.Clone(ids), parent: node, children: map[int32]*storeNode{}}
			node.children[ids[0]] = child
			return child
		}
		shared := CommonLength(child.edge, ids)
		if shared < len(child.edge) {
			child = child.split(shared)
		}
		node, ids = child, ids[shared:]
	}
	return node
}

// split puts a node in the middle of an edge and returns it.
func (n *storeNode) split(length int) *storeNode {
	upper := &storeNode{edge: n.edge[:length:length], parent: n.parent, children: map[int32]*storeNode{n.edge[length]: n}}
	n.parent.children[n.edge[0]] = upper
	n.parent, n.edge = upper, n.edge[length:]
	return upper
}

// touch marks kept KV as the most recently used.
func (c *Store) touch(kept *keptKV) {
	if _, known := c.recent.Get(kept); !known {
		c.recent.Add(kept, struct{}{})
	}
}

// Shrink forgets KV, least recently used first, until at most limit bytes are held.
func (c *Store) Shrink(limit int64) error {
	var errs []error
	for c.Total() > limit {
		oldest, _, ok := c.recent.RemoveOldest()
		if !ok {
			break
		}
		errs = append(errs, c.forget(oldest))
	}
	return errors.Join(errs...)
}

// forget drops kept KV, and removes its node and those above it that are empty then.
func (c *Store) forget(kept *keptKV) error {
	c.held[kept.use] -= kept.bytes
	if kept.sequence != nil {
		kept.node.sequence = nil
	} else {
		kept.node.history = nil
	}
	c.prune(kept.node)
	return kept.free()
}

// prune removes a node, and those above it, if they are empty.
func (c *Store) prune(n *storeNode) {
	for n.parent != nil && n.sequence == nil && n.history == nil && len(n.children) == 0 {
		delete(n.parent.children, n.edge[0])
		n = n.parent
	}
}

// sequences are all kept sequences, the least recently used first.
func (c *Store) sequences() []*keptKV {
	return slices.DeleteFunc(c.recent.Keys(), func(k *keptKV) bool { return k.sequence == nil })
}

// tokens are the ids from the root to a node.
func (n *storeNode) tokens() []int32 {
	if n.parent == nil {
		return nil
	}
	return append(n.parent.tokens(), n.edge...)
}

// at is ids[i], or an id that no token has.
func at(ids []int32, i int) int32 {
	if i < len(ids) {
		return ids[i]
	}
	return -1
}

// CommonLength is how many ids two lists have in common from their beginning.
func CommonLength(a, b []int32) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
