//! The query of a URL, decoded once.

use percent_encoding::percent_decode;

/// Decoded parameters in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a raw query (`a=1&b=%20`). Bad UTF-8 is replaced.
    pub fn parse(raw: &str) -> Self {
        let decode = |s: &str| {
            let plus = s.replace('+', " ");
            percent_decode(plus.as_bytes()).decode_utf8_lossy().into_owned()
        };
        Query(
            raw.split('&')
                .filter(|p| !p.is_empty())
                .map(|pair| match pair.split_once('=') {
                    Some((k, v)) => (decode(k), decode(v)),
                    None => (decode(pair), String::new()),
                })
                .collect(),
        )
    }

    /// The first value of a parameter; `None` where it does not occur.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// The first value of a parameter; empty where it does not occur.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Whether a parameter is true as Kubernetes decodes booleans of queries: present and neither `false` nor
    /// `0` (an empty value is true).
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| !v.eq_ignore_ascii_case("false") && v != "0")
    }

    /// All parameters in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_flags_follow_upstream() {
        let q = Query::parse("a=x%20y+z&watch&b=0&c=true&a=2");
        assert_eq!(q.get("a"), Some("x y z"));
        assert_eq!(q.all("a").collect::<Vec<_>>(), ["x y z", "2"]);
        assert!(q.flag("watch") && !q.flag("b") && q.flag("c") && !q.flag("d"));
    }
}
