//! What follows a value in Jinja's expressions: attributes, items, calls, filters and tests.

use crate::expression::{Parser, Read};
use crate::lexer::Token;
use crate::names;
use crate::written::{self, quoted, Kind, Written};

impl Parser<'_> {
    pub fn postfix(&mut self, mut value: Written) -> Read {
        loop {
            if self.skip_mark(".") {
                let token = self.peek()?;
                self.at += 1;
                value = match token {
                    Token::Name(name) => self.attribute(value, name)?,
                    Token::Whole(digits) => Written::new(Kind::Postfix, format!("__item({},{digits})", value.text)),
                    _ => return None,
                };
            } else if self.skip_mark("[") {
                value = self.subscript(value)?;
            } else if self.skip_mark("(") {
                value = self.call(value)?;
            } else {
                return Some(value);
            }
        }
    }

    /// `value.name` or a call of it.
    fn attribute(&mut self, value: Written, name: &str) -> Read {
        let called = self.is_mark("(");
        if called && names::is_method_not_here(name) {
            return self.refuse(format!("the method {name} is not known here"));
        }
        if !called && value.text == "loop" && matches!(name, "cycle" | "changed") {
            return self.refuse(format!("loop.{name} without a call is not known here"));
        }
        if called && names::is_method(name) {
            self.at += 1;
            let arguments = self.arguments()?;
            let arguments = if name == "changed" { format!("__seen({arguments})") } else { arguments };
            return Some(Written::new(Kind::Postfix, format!("{}.{name}({arguments})", value.base())));
        }
        Some(Written::new(Kind::Postfix, match names::is_attribute(name) && value.text != "loop" {
            true => format!("__attribute({},{})", value.text, quoted(name)),
            false => format!("{}.{name}", value.base()),
        }))
    }

    /// A call of a value, whose bracket was read: `__call` makes of a macro what takes arguments as Jinja's do.
    fn call(&mut self, value: Written) -> Read {
        let arguments = self.arguments()?;
        if value.text == "loop" {
            return Some(Written::new(Kind::Postfix, format!("loop({arguments})")));
        }
        let format = arguments.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
        if value.text == "strftime_now" && format.is_some_and(|format| !names::is_date_format(format)) {
            return self.refuse(format!("the date format {arguments} is not known here"));
        }
        let name = quoted(&value.text.chars().take(50).collect::<String>());
        Some(Written::new(Kind::Postfix, format!("__call({},{name})({arguments})", value.text)))
    }

    fn subscript(&mut self, value: Written) -> Read {
        let mut parts: Vec<Option<String>> = vec![None];
        loop {
            if self.skip_mark("]") {
                break;
            } else if self.skip_mark(":") {
                parts.push(None);
            } else if self.is_mark(",") {
                return self.refuse("a tuple is an index".into());
            } else {
                let part = self.expression()?.text;
                if parts.last() != Some(&None) || parts.len() > 3 {
                    return None;
                }
                *parts.last_mut()? = Some(part);
            }
        }
        if let [index] = &parts[..] {
            let index = index.as_ref()?;
            return Some(Written::new(Kind::Postfix, match written::is_key(index) {
                true => format!("{}[{index}]", value.base()),
                false => format!("__item({},{index})", value.text),
            }));
        }
        let parts: Vec<String> = parts.into_iter().map(|p| p.unwrap_or_else(|| "none".into())).collect();
        Some(Written::new(Kind::Postfix, format!("__slice({},{})", value.text, parts.join(","))))
    }

    /// The arguments of a call; its opening bracket was read.
    pub fn arguments(&mut self) -> Option<String> {
        // Jinja knows an order: values, names, then one * and one **.
        let (mut named, mut star, mut stars) = (Vec::new(), false, false);
        self.items(")", |p| {
            if p.skip_mark("**") {
                if std::mem::replace(&mut stars, true) {
                    return None;
                }
                return Some(format!("**{}", p.expression()?.text));
            }
            if p.skip_mark("*") {
                if stars || std::mem::replace(&mut star, true) {
                    return None;
                }
                return Some(format!("*{}", p.expression()?.text));
            }
            if let (Some(Token::Name(name)), Some(Token::Mark("="))) = (p.peek(), p.tokens.get(p.at + 1)) {
                if stars || named.contains(name) {
                    return None;
                }
                named.push(name.clone());
                p.at += 2;
                return Some(format!("{name}={}", p.expression()?.text));
            }
            if !named.is_empty() || star || stars {
                return None;
            }
            Some(p.expression()?.text)
        })
    }

    /// A name with points in it.
    fn dotted(&mut self) -> Option<String> {
        let mut name = self.name()?.to_owned();
        while self.skip_mark(".") {
            name = format!("{name}.{}", self.name()?);
        }
        Some(name)
    }

    pub fn filters(&mut self, mut value: Written) -> Read {
        loop {
            if self.skip_mark("|") {
                value = Written::new(Kind::Filter, format!("{}|{}", value.filtered(), self.filter()?));
            } else if self.skip_name("is") {
                value = self.test(value)?;
            } else if self.skip_mark("(") {
                value = self.call(value)?;
            } else {
                return Some(value);
            }
        }
    }

    /// A filter's name and arguments; the mark before it was read.
    pub fn filter(&mut self) -> Option<String> {
        let name = self.dotted()?;
        if !names::FILTERS.contains(&name.as_str()) {
            return self.refuse(format!("the filter {name} is not known here"));
        }
        let arguments = if self.skip_mark("(") { format!("({})", self.arguments()?) } else { String::new() };
        // Some have the name of another one as their argument.
        let applied = |name: &&&str| arguments.starts_with(&format!("({}", quoted(name)));
        let of_others = if name == "map" { names::FILTERS_NOT_HERE.iter().find(applied) } else { None };
        if let Some(missing) = names::FILTERS_NOT_HERE.iter().find(|n| **n == name).or(of_others) {
            return self.refuse(format!("the filter {missing} is not known here"));
        }
        Some(name + &arguments)
    }

    fn test(&mut self, value: Written) -> Read {
        let not = if self.skip_name("not") { "not " } else { "" };
        let name = self.dotted()?;
        if !names::TESTS.contains(&name.as_str()) {
            return self.refuse(format!("the test {name} is not known here"));
        }
        let argument = match self.peek() {
            Some(Token::Mark("(")) => {
                self.at += 1;
                self.arguments()?
            }
            Some(Token::Name(word)) if matches!(word.as_str(), "else" | "or" | "and") => String::new(),
            Some(Token::Name(word)) if word == "is" => return None,
            Some(Token::Name(_) | Token::Text(_) | Token::Whole(_) | Token::Float(_) | Token::Mark("[" | "{")) => {
                let value = self.primary()?;
                self.postfix(value)?.text
            }
            _ => String::new(),
        };
        let argument = if argument.is_empty() { argument } else { format!("({argument})") };
        Some(Written::new(Kind::Name, format!("({} is {not}{name}{argument})", value.base())))
    }
}
