//! What Jinja has and minijinja does not, written in terms of what it has, before a template is compiled: `text % values`,
//! `a ~ b` as Python prints its operands, `literal and x`, and `{% generation %}`; and `a + b`, whose results are to have bounds.

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Space,
    Text,
    Number,
    Name,
    Operator,
    Operand, // what an operator and its operands became
}

struct Token {
    kind: Kind,
    text: String,
}

/// Names that end an operand.
const KEYWORDS: &[&str] = &[
    "and", "or", "not", "if", "elif", "else", "in", "is", "set", "for", "with", "call", "filter", "macro", "print", "do", "recursive",
    "scoped", "block", "autoescape", "include", "import", "from", "as",
];

/// The template for minijinja. What it does not understand stays as it is, for minijinja to report.
pub fn rewrite(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (open, close) = match rest.as_bytes().get(1) {
            Some(b'{') => ("{{", "}}"),
            Some(b'%') => ("{%", "%}"),
            Some(b'#') => {
                let end = rest.find("#}").map_or(rest.len(), |end| end + 2);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            _ => {
                out.push('{');
                rest = &rest[1..];
                continue;
            }
        };
        let Some(length) = end_of_tag(&rest[2..], close) else {
            break; // the tag does not end
        };
        let (body, tag) = (&rest[2..2 + length], &rest[..length + 4]);
        rest = &rest[length + 4..];
        if open == "{%" && word(body) == "raw" {
            let end = end_of_raw(rest);
            out.push_str(tag);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        out.push_str(open);
        out.push_str(&rewrite_tag(body, open == "{%"));
        out.push_str(close);
    }
    out.push_str(rest);
    out
}

/// The first word of a tag, after the sign that controls white space.
fn word(body: &str) -> &str {
    let body = body.trim_start_matches(['-', '+']).trim_start();
    &body[..body.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(body.len())]
}

fn end_of_raw(rest: &str) -> usize {
    let mut from = 0;
    while let Some(at) = rest[from..].find("{%") {
        if word(&rest[from + at + 2..]) == "endraw" {
            return from + at;
        }
        from += at + 2;
    }
    rest.len()
}

/// Where a tag's closing marks begin; those in strings and brackets do not count.
fn end_of_tag(body: &str, close: &str) -> Option<usize> {
    let bytes = body.as_bytes();
    let (mut i, mut depth) = (0, 0usize);
    while i < bytes.len() {
        if depth == 0 && body.as_bytes()[i..].starts_with(close.as_bytes()) {
            return Some(i);
        }
        match bytes[i] {
            quote @ (b'"' | b'\'') => i += string_length(&bytes[i..], quote)? - 1,
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        i += 1;
    }
    None
}

fn string_length(bytes: &[u8], quote: u8) -> Option<usize> {
    let mut i = 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 1,
            b if b == quote => return Some(i + 1),
            _ => {}
        }
        i += 1;
    }
    None
}

fn rewrite_tag(body: &str, statement: bool) -> String {
    if statement {
        // A block of its own, as in transformers: what is set inside stays inside.
        match word(body) {
            "generation" => return body.replacen("generation", "with", 1),
            "endgeneration" => return body.replacen("endgeneration", "endwith", 1),
            _ => {}
        }
    }
    let Some(mut tokens) = tokenize(body) else { return body.to_owned() };
    let relevant = |t: &Token| {
        t.kind == Kind::Operator && ["%", "~", "+"].contains(&t.text.as_str()) || t.kind == Kind::Name && t.text == "and"
    };
    if !tokens.iter().any(relevant) {
        return body.to_owned();
    }
    guard_literals(&mut tokens);
    replace_operator(&mut tokens, "%", "__mod", &["+", "-", "~"], &["+", "-", "~", "*", "/", "//", "%"], 0);
    replace_operator(&mut tokens, "~", "__concat", &["+", "-"], &["+", "-", "~"], 0);
    replace_operator(&mut tokens, "+", "__plus", &[], &["+", "-"], 0);
    tokens.into_iter().map(|t| t.text).collect()
}

fn tokenize(body: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        let (kind, length) = match c {
            c if c.is_whitespace() => (Kind::Space, rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len())),
            '"' | '\'' => (Kind::Text, string_length(rest.as_bytes(), c as u8)?),
            c if c.is_ascii_digit() => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_').unwrap_or(rest.len());
                (Kind::Number, end)
            }
            c if c.is_alphanumeric() || c == '_' => {
                (Kind::Name, rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()))
            }
            _ => {
                let two = ["//", "**", "==", "!=", "<=", ">="].iter().any(|op| rest.starts_with(op));
                (Kind::Operator, if two { 2 } else { c.len_utf8() })
            }
        };
        tokens.push(Token { kind, text: rest[..length].to_owned() });
        rest = &rest[length..];
    }
    Some(tokens)
}

/// minijinja folds `literal and x` to a boolean where both are constants; a call is none.
fn guard_literals(tokens: &mut [Token]) {
    for i in 0..tokens.len() {
        if tokens[i].kind != Kind::Name || tokens[i].text != "and" {
            continue;
        }
        let Some(left) = (0..i).rev().find(|&j| tokens[j].kind != Kind::Space) else { continue };
        let constant = matches!(tokens[left].text.to_ascii_lowercase().as_str(), "none" | "true" | "false");
        let attribute = left > 0 && tokens[left - 1].text == ".";
        if !attribute && (matches!(tokens[left].kind, Kind::Text | Kind::Number) || constant) {
            tokens[left] = Token { kind: Kind::Operand, text: format!("__value({})", tokens[left].text) };
        }
    }
}

/// How many brackets deep operators are looked for; minijinja's parser does not go further either.
const DEEPEST: usize = 100;

/// Makes calls of an operator, from left to right. Its left operand ends at the operators of `before`, its right one at those of
/// `after`: the operators that bind less tightly, and those of the same kind.
fn replace_operator(tokens: &mut Vec<Token>, operator: &str, call: &str, before: &[&str], after: &[&str], depth: usize) {
    let mut i = 0;
    while i < tokens.len() {
        if tokens[i].kind != Kind::Operator || tokens[i].text != operator {
            i += 1;
            continue;
        }
        let first = left_end(tokens, i, before);
        let last = right_end(tokens, i, after);
        let join = |tokens: &[Token]| tokens.iter().map(|t| t.text.as_str()).collect::<String>();
        // In `a + b is c` the test is of b alone.
        let tested = tokens[last..].iter().find(|t| t.kind != Kind::Space).is_some_and(|t| t.kind == Kind::Name && t.text == "is");
        let mut after_it: Vec<Token> = tokens.splice(i + 1..last, []).collect();
        let last = i + 1;
        if depth < DEEPEST {
            replace_operator(&mut after_it, operator, call, before, after, depth + 1); // in its brackets
        }
        let (left, right) = (join(&tokens[first..i]), join(&after_it));
        if left.trim().is_empty() || right.trim().is_empty() || tested || is_sign(tokens, i) {
            i += 1 + after_it.len();
            tokens.splice(last..last, after_it);
            continue;
        }
        // A long chain of additions is one call: calls in calls are more than the parser takes.
        let chain = left.trim().strip_suffix(')').filter(|_| {
            let mut operands = tokens[first..i].iter().filter(|t| t.kind != Kind::Space);
            operands.next().is_some_and(|t| t.kind == Kind::Operand && t.text.starts_with(" __plus(")) && operands.next().is_none()
        });
        let text = match chain {
            Some(begun) if call == "__plus" => format!(" {begun},({})) ", right.trim()),
            _ => format!(" {call}(({}),({})) ", left.trim(), right.trim()),
        };
        tokens.splice(first..last, [Token { kind: Kind::Operand, text }]);
        i = first + 1;
    }
}

/// Whether the token may be the last of an operand.
fn ends_operand(t: &Token) -> bool {
    match t.kind {
        Kind::Text | Kind::Number | Kind::Operand => true,
        Kind::Name => !KEYWORDS.contains(&t.text.as_str()),
        Kind::Operator => matches!(t.text.as_str(), ")" | "]" | "}"),
        Kind::Space => false,
    }
}

fn stops(t: &Token, operators: &[&str]) -> bool {
    match t.kind {
        Kind::Name => KEYWORDS.contains(&t.text.as_str()),
        Kind::Operator => {
            operators.contains(&t.text.as_str()) || matches!(t.text.as_str(), "," | ":" | "=" | "==" | "!=" | "<" | ">" | "<=" | ">=")
        }
        _ => false,
    }
}

/// A sign that belongs to the operand after it.
fn is_sign(tokens: &[Token], i: usize) -> bool {
    matches!(tokens[i].text.as_str(), "-" | "+")
        && !tokens[..i].iter().rev().find(|t| t.kind != Kind::Space).is_some_and(ends_operand)
}

fn left_end(tokens: &[Token], at: usize, operators: &[&str]) -> usize {
    let mut depth = 0;
    for j in (0..at).rev() {
        let t = &tokens[j];
        match t.text.as_str() {
            ")" | "]" | "}" if t.kind == Kind::Operator => depth += 1,
            "(" | "[" | "{" if t.kind == Kind::Operator => {
                if depth == 0 {
                    return j + 1;
                }
                depth -= 1;
            }
            // The sign that controls white space, at the very start, is no operator.
            "-" | "+" if t.kind == Kind::Operator && j == 0 => return 1,
            _ if depth == 0 && stops(t, operators) && !is_sign(tokens, j) => return j + 1,
            _ => {}
        }
    }
    0
}

fn right_end(tokens: &[Token], at: usize, operators: &[&str]) -> usize {
    let mut depth = 0;
    for j in at + 1..tokens.len() {
        let t = &tokens[j];
        match t.text.as_str() {
            "(" | "[" | "{" if t.kind == Kind::Operator => depth += 1,
            ")" | "]" | "}" if t.kind == Kind::Operator => {
                if depth == 0 {
                    return j;
                }
                depth -= 1;
            }
            "-" | "+" if t.kind == Kind::Operator && j + 1 == tokens.len() => return j,
            _ if depth == 0 && stops(t, operators) && !is_sign(tokens, j) => return j,
            _ => {}
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_become_calls() {
        for (from, want) in [
            ("{{ '%s' % x }}", "{{ __mod(('%s'),(x)) }}"),
            ("{%- if loop.index % 2 == 0 -%}", "{%- if __mod((loop.index),(2)) == 0 -%}"),
            ("{{ a * b % c % d + e }}", "{{ __plus((__mod((__mod((a * b),(c))),(d))),(e)) }}"),
            ("{{ f(a % b, 'x % y') }}", "{{ f(__mod((a),(b)), 'x % y') }}"),
            ("{{- a ~ b | f ~ 'c' -}}", "{{- __concat((__concat((a),(b | f))),('c')) -}}"),
            ("{% generation %}x{%- endgeneration -%}", "{% with %}x{%- endwith -%}"),
            ("{# a % b #}{% raw %}{{ a % b }}{% endraw %}100 % b", "{# a % b #}{% raw %}{{ a % b }}{% endraw %}100 % b"),
            ("{{ '' and x }}", "{{ __value('') and x }}"),
            ("{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': 1}} }}"),
            ("{{ -a % -b }}", "{{ __mod((-a),(-b)) }}"),
            ("{{ a - b + c * -d - e + +f }}", "{{ __plus((__plus((a - b),(c * -d)) - e),(+f)) }}"),
            ("{%+ if a + b == c + e and d[1 + x:] +%}", "{%+ if __plus((a),(b)) == __plus((c),(e)) and d[ __plus((1),(x)) :] +%}"),
            ("{{ a + b + c|f + (d + e) + g }}", "{{ __plus((a),(b),(c|f),(( __plus((d),(e)))),(g)) }}"),
            ("{{ f(x=a + b | g) + {'k': +1 + y}['k'] if z else 'a' + w }}", "{{ __plus((f(x= __plus((a),(b | g)))),({'k': __plus((+1),(y)) }['k'])) if z else __plus(('a'),(w)) }}"),
            ("{{ a + b is c }}", "{{ a + b is c }}"),
            ("{{- '+' -}}", "{{- '+' -}}"),
        ] {
            let squeeze = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ").replace(" )", ")").replace("( ", "(").replace(" ,", ",");
            assert_eq!(squeeze(&rewrite(from)), squeeze(want), "{from}");
        }
    }

    #[test]
    fn any_text_is_rewritten_without_a_panic() {
        let deep = format!("{{{{ {}a{} }}}}", "a + (".repeat(10_000), ")".repeat(10_000));
        for text in ["{", "{{", "{% %", "{{ '", "{% raw %}", "{{ % }}", "{{ ~ }}", "{{ + }}", "{{ a + (b + ) }}", &deep, "{{ ) % ( }}", "{#", "{{ ä % ö }}", "{%-%}", "{{-}}", "{{ a %}}"] {
            rewrite(text);
        }
    }
}
