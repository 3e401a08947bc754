//! Jinja's expressions, parsed by its grammar and written for minijinja. Operators become calls of functions that compute as Python
//! does (operators.rs), since minijinja's differ: tuples are lists there, True is no number, a text cannot be formatted, ranges that
//! go backwards end late, and what is constant is folded by other rules.

use crate::lexer::Token;
use crate::written::{self, quoted, tuple_of, Kind, Written};

/// How deep brackets may be nested. minijinja has a bound of its own at 150 levels, which it reports.
const MAX_DEPTH: usize = 100;
/// Bytes of a chain of comparisons that is written as several.
const SHORT: usize = 200;

pub struct Parser<'a> {
    pub tokens: &'a [Token],
    pub at: usize,
    depth: usize,
    pub why: Option<String>, // it is refused, if it is Jinja
}

pub type Read = Option<Written>; // None: not Jinja, or beyond what is understood here

impl<'a> Parser<'a> {
    pub fn new(tokens: &'a [Token]) -> Self {
        Parser { tokens, at: 0, depth: 0, why: None }
    }

    /// None, and why.
    pub fn refuse<T>(&mut self, why: String) -> Option<T> {
        self.why.get_or_insert(why);
        None
    }

    pub fn done(&self) -> bool {
        self.at == self.tokens.len()
    }

    pub fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    pub fn is_mark(&self, mark: &str) -> bool {
        matches!(self.peek(), Some(Token::Mark(m)) if *m == mark)
    }

    pub fn skip_mark(&mut self, mark: &str) -> bool {
        let found = self.is_mark(mark);
        self.at += usize::from(found);
        found
    }

    fn need_mark(&mut self, mark: &str) -> Option<()> {
        self.skip_mark(mark).then_some(())
    }

    pub fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(n)) if n == name)
    }

    pub fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub fn name(&mut self) -> Option<&'a str> {
        match self.peek() {
            Some(Token::Name(n)) => {
                self.at += 1;
                Some(n)
            }
            _ => None,
        }
    }

    /// One of the marks, if it comes next.
    fn one_of(&mut self, marks: &[&'static str]) -> Option<&'static str> {
        let found = marks.iter().find(|mark| self.is_mark(mark)).copied();
        self.at += usize::from(found.is_some());
        found
    }

    /// One expression, or several with commas: a tuple. `conditional` allows `a if b else c`; an `end` is a name that ends it.
    pub fn tuple(&mut self, conditional: bool, end: &str) -> Read {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if !items.is_empty() {
                self.need_mark(",")?;
            }
            if self.done() || self.is_mark(")") || !end.is_empty() && self.is_name(end) {
                break;
            }
            items.push(if conditional { self.expression()? } else { self.or()? });
            if !self.is_mark(",") {
                break;
            }
            is_tuple = true;
        }
        if !is_tuple {
            return items.pop();
        }
        Some(tuple_of(items))
    }

    pub fn expression(&mut self) -> Read {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut value = self.or()?;
        while self.skip_name("if") {
            let condition = self.or()?.text;
            let otherwise = if self.skip_name("else") { Some(self.expression()?.text) } else { None };
            let text = match otherwise {
                Some(other) => format!("({} if {condition} else {other})", value.text),
                None => format!("({} if {condition})", value.text),
            };
            value = Written::new(Kind::Name, text);
        }
        self.depth -= 1;
        Some(value)
    }

    fn logic(&mut self, word: &str, operand: fn(&mut Self) -> Read) -> Read {
        let first = operand(self)?;
        if !self.is_name(word) {
            return Some(first);
        }
        let mut text = format!("({}", first.condition());
        while self.skip_name(word) {
            text += &format!(" {word} {}", operand(self)?.condition());
        }
        Some(Written::new(Kind::Name, text + ")"))
    }

    fn or(&mut self) -> Read {
        self.logic("or", Self::and)
    }

    fn and(&mut self) -> Read {
        self.logic("and", Self::not)
    }

    fn not(&mut self) -> Read {
        if !self.skip_name("not") {
            return self.compare();
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = self.not()?.text;
        self.depth -= 1;
        Some(Written::new(Kind::Name, format!("(not {value})")))
    }

    fn compare(&mut self) -> Read {
        let first = self.sum()?;
        let (mut more, mut last, mut parts) = (String::new(), first.text.clone(), Vec::new());
        loop {
            let operator = match self.one_of(&["==", "!=", "<", "<=", ">", ">="]) {
                Some(mark) => mark,
                None if self.skip_name("in") => "in",
                None if self.is_name("not") && matches!(self.tokens.get(self.at + 1), Some(Token::Name(n)) if n == "in") => {
                    self.at += 2;
                    "not in"
                }
                None => break,
            };
            let next = self.sum()?.text;
            more += &format!(",'{operator}',{next}");
            parts.push(format!("__compare({last},'{operator}',{next})"));
            last = next;
        }
        if more.is_empty() {
            return Some(first);
        }
        // As in Python what comes after a comparison that fails is not computed. A long operand is not written twice.
        if parts.len() > 1 && more.len() < SHORT {
            return Some(Written::new(Kind::Name, format!("({})", parts.join(" and "))));
        }
        Some(Written::new(Kind::Postfix, format!("__compare({}{more})", first.text)))
    }

    /// Operators of one precedence, from left to right, as one call.
    fn arithmetic(&mut self, marks: &[&'static str], operand: fn(&mut Self) -> Read) -> Read {
        let first = operand(self)?;
        let mut more = String::new();
        while let Some(mark) = self.one_of(marks) {
            more += &format!(",'{mark}',{}", operand(self)?.text);
        }
        if more.is_empty() {
            return Some(first);
        }
        Some(Written::new(Kind::Postfix, format!("__compute({}{more})", first.text)))
    }

    fn sum(&mut self) -> Read {
        self.arithmetic(&["+", "-"], Self::concatenation)
    }

    fn concatenation(&mut self) -> Read {
        self.arithmetic(&["~"], Self::product)
    }

    fn product(&mut self) -> Read {
        self.arithmetic(&["*", "/", "//", "%"], Self::power)
    }

    fn power(&mut self) -> Read {
        self.arithmetic(&["**"], |p| p.unary(true))
    }

    fn unary(&mut self, with_filters: bool) -> Read {
        let value = match self.one_of(&["-", "+"]) {
            Some(sign) => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return None;
                }
                let value = self.unary(false)?.text;
                self.depth -= 1;
                Written::new(Kind::Postfix, format!("__sign('{sign}',{value})"))
            }
            None => self.primary()?,
        };
        let value = self.postfix(value)?;
        if with_filters {
            return self.filters(value);
        }
        Some(value)
    }

    pub fn primary(&mut self) -> Read {
        let token = self.peek()?;
        self.at += 1;
        match token {
            Token::Name(name) => Some(match name.as_str() {
                "true" | "True" => Written::new(Kind::Constant, "true"),
                "false" | "False" => Written::new(Kind::Constant, "false"),
                "none" | "None" => Written::new(Kind::Constant, "none"),
                "lipsum" | "self" | "super" => return self.refuse(format!("{name} is not known here")),
                // What the rewritten template calls has such names.
                _ if name.starts_with("__") => return self.refuse(format!("{name} is no name of a variable")),
                _ => Written::new(Kind::Name, name.as_str()),
            }),
            Token::Text(text) => {
                let mut text = text.clone();
                while let Some(Token::Text(more)) = self.peek() {
                    text += more;
                    self.at += 1;
                }
                Some(Written::new(Kind::Constant, quoted(&text)))
            }
            Token::Whole(digits) => Some(Written::new(Kind::Constant, digits.as_str())),
            // As text: minijinja does not read every form of it.
            Token::Float(digits) => Some(Written::new(Kind::Postfix, format!("__float('{digits}')"))),
            Token::Mark("(") => {
                if self.skip_mark(")") {
                    return Some(tuple_of(Vec::new()));
                }
                self.depth += 1;
                let value = if self.depth > MAX_DEPTH { None } else { self.tuple(true, "") }?;
                self.depth -= 1;
                self.need_mark(")")?;
                Some(value)
            }
            Token::Mark("[") => {
                let items = self.items("]", |p| Some(p.expression()?.text))?;
                Some(Written::new(Kind::Constant, format!("[{items}]")))
            }
            Token::Mark("{") => {
                let items = self.items("}", |p| {
                    let key = written::key(&p.expression()?.text);
                    p.need_mark(":")?;
                    Some(format!("{key}: {}", p.expression()?.text))
                })?;
                Some(Written::new(Kind::Constant, format!("{{{items}}}")))
            }
            _ => None,
        }
    }

    /// What is between commas until a closing mark; the last comma may be followed by nothing.
    pub fn items(&mut self, close: &str, mut item: impl FnMut(&mut Self) -> Option<String>) -> Option<String> {
        let mut items = Vec::new();
        while !self.skip_mark(close) {
            if !items.is_empty() {
                self.need_mark(",")?;
                if self.skip_mark(close) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Some(items.join(", "))
    }
}
