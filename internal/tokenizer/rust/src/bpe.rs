//! Byte-pair encoding that is read quickly and takes little room. The library's own keeps every token twice as a string of its own, and
//! reads merges as strings before it looks them up: for a vocabulary of 262,144 tokens that is most of the time to a first token, and
//! 140 MB. Here tokens lie one after the other in one buffer, and merges are ids as soon as they are read. The rules are the library's,
//! which is the oracle of the tests; models with a prefix, a suffix or dropout are left to it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};

use hashbrown::hash_table::Entry as Slot;
use hashbrown::{DefaultHashBuilder, HashTable};
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{Model, Result, Token};

use crate::vocab::Vocab;

pub struct Bpe {
    vocab: Vocab,
    rules: Rules,
    unk: Option<u32>,
    fuse_unk: bool,
    /// The tokens of single bytes, if characters without a token are made of them.
    bytes: Option<Box<[Option<u32>; 256]>>,
    ignore_merges: bool,
}

/// Which two neighbours become one token, and which of them first.
pub enum Rules {
    Pairs(Merges),
    Scores(Scores),
}

/// What says whether two tokens become one.
trait Ranking {
    /// The lowest is merged first.
    type Rank: Ord + Copy;

    /// The rank of a pair and the token that it makes. `whole` is a buffer.
    fn rank(&self, vocab: &Vocab, left: u32, right: u32, whole: &mut String) -> Option<(Self::Rank, u32)>;
}

fn join(vocab: &Vocab, left: u32, right: u32, whole: &mut String) {
    whole.clear();
    whole.push_str(vocab.token(left).unwrap_or_default());
    whole.push_str(vocab.token(right).unwrap_or_default());
}

/// Pairs of tokens that become one, by rank.
pub struct Merges {
    pairs: Vec<(u32, u32)>,
    made: Vec<u32>,
    ranks: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Merges {
    /// A pair that is there twice has its later rank, as in the library.
    pub fn of_pairs(vocab: &Vocab, mut pairs: Vec<(u32, u32)>) -> std::result::Result<Merges, &'static str> {
        pairs.shrink_to_fit();
        let hasher = DefaultHashBuilder::default();
        let (mut made, mut ranks, mut whole) = (Vec::with_capacity(pairs.len()), HashTable::with_capacity(pairs.len()), String::new());
        for (rank, &(left, right)) in pairs.iter().enumerate() {
            join(vocab, left, right, &mut whole);
            made.push(vocab.id(&whole).ok_or("a merge makes no token")?);
            let rank = rank as u32;
            match ranks.entry(hasher.hash_one((left, right)), |&r| pairs[r as usize] == (left, right), |&r| hasher.hash_one(pairs[r as usize])) {
                Slot::Vacant(v) => {
                    v.insert(rank);
                }
                Slot::Occupied(mut o) => *o.get_mut() = rank,
            }
        }
        Ok(Merges { pairs, made, ranks, hasher })
    }
}

impl Ranking for Merges {
    type Rank = u32;

    fn rank(&self, _: &Vocab, left: u32, right: u32, _: &mut String) -> Option<(u32, u32)> {
        let pair = (left, right);
        let &rank = self.ranks.find(self.hasher.hash_one(pair), |&rank| self.pairs[rank as usize] == pair)?;
        Some((rank, self.made[rank as usize]))
    }
}

/// The rules of a SentencePiece model: two neighbours whose texts together are a token become that, the one with the best score
/// first. Merges are not written down, so nothing has to be derived when the model is read.
pub struct Scores(Vec<u32>);

impl Scores {
    /// The place of each id by its score, equal for equal scores; of ids that are not merged and that nothing is merged to, it is NOT.
    pub fn of_places(places: Vec<u32>) -> Scores {
        Scores(places)
    }

    pub const NOT: u32 = u32::MAX;

    fn place(&self, id: u32) -> u32 {
        self.0.get(id as usize).copied().unwrap_or(Self::NOT)
    }
}

/// Within a score the order is that of Hugging Face's converter, which writes merges down: the letters on the left, the most first;
/// then those on the right, the union's id, the left one's, the right one's.
type ScoreRank = (u32, Reverse<u32>, Reverse<u32>, u32, u32, u32);

impl Ranking for Scores {
    type Rank = ScoreRank;

    fn rank(&self, vocab: &Vocab, left: u32, right: u32, whole: &mut String) -> Option<(ScoreRank, u32)> {
        if self.place(left) == Self::NOT || self.place(right) == Self::NOT {
            return None;
        }
        join(vocab, left, right, whole);
        let made = vocab.id(whole).filter(|&id| self.place(id) != Self::NOT)?;
        let letters = |id| Reverse(vocab.token(id).unwrap_or_default().chars().count() as u32);
        Some(((self.place(made), letters(left), letters(right), made, left, right), made))
    }
}

/// A token of a word that is being merged, in a list. Those that were merged into the one before have no length.
struct Symbol {
    id: u32,
    previous: usize,
    next: usize,
    length: usize, // in bytes
}

const NONE: usize = usize::MAX;

impl Bpe {
    pub fn new(vocab: Vocab, rules: Rules, unk: Option<u32>, fuse_unk: bool, byte_fallback: bool, ignore_merges: bool) -> Self {
        let bytes = byte_fallback.then(|| Box::new(std::array::from_fn(|b| vocab.id(&format!("<0x{b:02X}>")))));
        Bpe { vocab, rules, unk, fuse_unk, bytes, ignore_merges }
    }

    fn symbols(&self, word: &str) -> Result<Vec<Symbol>> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(word.len());
        let mut add = |id, length| {
            let at = symbols.len();
            if let Some(last) = symbols.last_mut() {
                last.next = at;
            }
            symbols.push(Symbol { id, previous: at.wrapping_sub(1), next: NONE, length });
        };
        let mut unknown: Option<(u32, usize)> = None;
        let mut buffer = [0; 4];
        for c in word.chars() {
            let letter: &str = c.encode_utf8(&mut buffer);
            if let Some(id) = self.vocab.id(letter) {
                if let Some((id, length)) = unknown.take() {
                    add(id, length);
                }
                add(id, letter.len());
                continue;
            }
            if let Some(bytes) = &self.bytes {
                if letter.bytes().all(|b| bytes[b as usize].is_some()) {
                    letter.bytes().for_each(|b| add(bytes[b as usize].unwrap_or_default(), 1));
                    continue;
                }
            }
            let Some(id) = self.unk else { continue };
            unknown = match unknown {
                Some((id, length)) if self.fuse_unk => Some((id, length + letter.len())),
                other => {
                    if let Some((id, length)) = other {
                        add(id, length);
                    }
                    Some((id, letter.len()))
                }
            };
        }
        if let Some((id, length)) = unknown {
            add(id, length);
        }
        Ok(symbols)
    }

    /// Merges pairs, those of the lowest rank first and of one rank from left to right.
    fn merge<R: Ranking>(&self, by: &R, symbols: &mut [Symbol]) {
        let mut whole = String::new();
        let mut pair_rank = |symbols: &[Symbol], at: usize| by.rank(&self.vocab, symbols[at].id, symbols[symbols[at].next].id, &mut whole);
        let mut queue: BinaryHeap<Reverse<(R::Rank, usize, u32)>> = (0..symbols.len().saturating_sub(1))
            .filter_map(|at| pair_rank(symbols, at).map(|(rank, made)| Reverse((rank, at, made))))
            .collect();
        while let Some(Reverse((_, at, made))) = queue.pop() {
            let next = symbols[at].next;
            if symbols[at].length == 0 || next == NONE {
                continue;
            }
            // The pair may be another by now. Where it makes the same token, the library merges it too.
            if pair_rank(symbols, at).is_none_or(|(_, now)| now != made) {
                continue;
            }
            let after = symbols[next].next;
            let length = std::mem::take(&mut symbols[next].length);
            let symbol = &mut symbols[at];
            symbol.id = made;
            symbol.length += length;
            symbol.next = after;
            let before = symbol.previous;
            if after != NONE {
                symbols[after].previous = at;
                queue.extend(pair_rank(symbols, at).map(|(rank, made)| Reverse((rank, at, made))));
            }
            if before != NONE {
                queue.extend(pair_rank(symbols, before).map(|(rank, made)| Reverse((rank, before, made))));
            }
        }
    }
}

impl Model for Bpe {
    type Trainer = BpeTrainer;

    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        if self.ignore_merges {
            if let Some(id) = self.vocab.id(word).filter(|_| !word.is_empty()) {
                return Ok(vec![Token::new(id, word.to_owned(), (0, word.len()))]);
            }
        }
        let mut symbols = self.symbols(word)?;
        match &self.rules {
            Rules::Pairs(merges) => self.merge(merges, &mut symbols),
            Rules::Scores(scores) => self.merge(scores, &mut symbols),
        }
        let mut at = 0;
        let token = |s: &Symbol| {
            let begin = at;
            at += s.length;
            Token::new(s.id, self.vocab.token(s.id).unwrap_or_default().to_owned(), (begin, at))
        };
        Ok(symbols.iter().filter(|s| s.length > 0).map(token).collect())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocab.id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.vocab.token(id).map(str::to_owned)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.vocab.ids().filter_map(|id| Some((self.vocab.token(id)?.to_owned(), id))).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.vocab.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("this model cannot be saved".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}
