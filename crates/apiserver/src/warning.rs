//! `Warning` headers (`k8s.io/apiserver/pkg/warning`, `endpoints/filters/warning.go`).

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// All texts of one response together stay below this.
const MAX_TOTAL: usize = 4096;
/// A text is cut to this when the total would be exceeded.
const MAX_EACH: usize = 256;

/// The warnings of one request; cheap to clone, shared by every stage.
#[derive(Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>, Annotations);

/// What stages note about a request for the audit log; cheap to clone. A key is written once
/// (`k8s.io/apiserver/pkg/audit.AddAuditAnnotation`).
#[derive(Clone, Default)]
pub struct Annotations(Arc<Mutex<BTreeMap<String, Note>>>);

struct Note {
    text: String,
    /// It tells what is in the body of the request.
    about_request: bool,
}

impl Annotations {
    /// Notes something, unless the key is taken.
    pub fn add(&self, key: impl Into<String>, value: impl Into<String>) {
        self.put(key.into(), Note { text: value.into(), about_request: false });
    }

    /// Notes something that tells what is in the body of the request: it is written where that is.
    pub fn add_about_request(&self, key: impl Into<String>, value: impl Into<String>) {
        self.put(key.into(), Note { text: value.into(), about_request: true });
    }

    fn put(&self, key: String, note: Note) {
        self.0.lock().entry(key).or_insert(note);
    }

    /// All notes; those about the body of the request where that is written, too.
    pub fn all(&self, with_request: bool) -> BTreeMap<String, String> {
        let all = self.0.lock();
        let shown = all.iter().filter(|(_, note)| with_request || !note.about_request);
        shown.map(|(key, note)| (key.clone(), note.text.clone())).collect()
    }
}

impl Warnings {
    /// What is noted for the audit log.
    pub fn annotations(&self) -> &Annotations {
        &self.1
    }

    /// Adds a text, unless it is there already.
    pub fn add(&self, text: impl Into<String>) {
        let text = text.into();
        let mut all = self.0.lock();
        if !text.is_empty() && !all.contains(&text) {
            all.push(text);
        }
    }

    /// Adds several.
    pub fn extend(&self, texts: impl IntoIterator<Item = String>) {
        for text in texts {
            self.add(text);
        }
    }

    /// The header values, `299 - "text"`.
    pub fn headers(&self) -> Vec<http::HeaderValue> {
        let all = self.0.lock();
        let total: usize = all.iter().map(String::len).sum();
        let mut left = MAX_TOTAL;
        let mut headers = Vec::new();
        for text in all.iter() {
            let mut shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            if total > MAX_TOTAL && shown.len() > MAX_EACH {
                shown = cut(&shown, MAX_EACH).to_owned();
            }
            if shown.len() > left {
                break;
            }
            left -= shown.len();
            let quoted = shown.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = http::HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
                headers.push(value);
            }
        }
        headers
    }
}

fn cut(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_sent_once_and_quoted() {
        let w = Warnings::default();
        w.add("say \"hi\"\n");
        w.add("say \"hi\"\n");
        let headers = w.headers();
        assert_eq!(headers.len(), 1);
        assert_eq!(headers[0].to_str().unwrap_or_default(), "299 - \"say \\\"hi\\\" \"");
    }

    #[test]
    fn long_texts_are_cut() {
        let w = Warnings::default();
        for i in 0..40 {
            w.add(format!("{i}{}", "x".repeat(1000)));
        }
        let total: usize = w.headers().iter().map(|h| h.len()).sum();
        assert!(total < MAX_TOTAL + 40 * 10, "{total}");
    }
}
