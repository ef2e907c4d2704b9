//! Selectors of devices: expressions that are compiled once, with what they said of each device.
//!
//! Upstream keeps the ten expressions used last (`k8s.io/dynamic-resource-allocation/cel/cache.go`). Here what an
//! expression says of a device is kept too: it holds until the device's slice changes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::catalogue::{Device, Slice};

/// Expressions that are kept; when there are more, all are forgotten.
const MOST_EXPRESSIONS: usize = 256;

/// Slices whose answers an expression keeps; when there are more, all are forgotten.
const MOST_SLICES: usize = 16 * 1024;

/// What expressions are written in.
pub trait Language: Send + Sync {
    /// Compiles an expression.
    ///
    /// # Errors
    /// What is wrong with it.
    fn compile(&self, expression: &str) -> Result<Box<dyn Program>, String>;
}

/// A compiled expression.
pub trait Program: Send + Sync {
    /// Whether it holds of a device.
    ///
    /// # Errors
    /// It cannot be said: the expression asks for something that is not there, or costs too much.
    fn matches(&self, device: &Device) -> Result<bool, String>;
}

/// Why an expression says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be compiled.
    Compile(String),
    /// It failed on a device.
    Runtime(String),
}

/// By the numbers of slices: what was said of each device.
type Answers = HashMap<u64, Vec<Option<bool>>>;

/// An expression.
pub struct Selector {
    program: Result<Box<dyn Program>, String>,
    answers: Mutex<Answers>,
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selector").field("error", &self.program.as_ref().err()).finish_non_exhaustive()
    }
}

impl Selector {
    /// Whether it holds of a device of a slice.
    ///
    /// # Errors
    /// It cannot be said.
    pub fn matches(&self, slice: &Slice, device: usize) -> Result<bool, Fault> {
        let program = self.program.as_ref().map_err(|why| Fault::Compile(why.clone()))?;
        if let Some(Some(known)) = self.answers.lock().get(&slice.number).and_then(|a| a.get(device)) {
            return Ok(*known);
        }
        let answer = program.matches(&slice.devices[device]).map_err(Fault::Runtime)?;
        let mut answers = self.answers.lock();
        if answers.len() >= MOST_SLICES {
            answers.clear();
        }
        answers.entry(slice.number).or_insert_with(|| vec![None; slice.devices.len()])[device] = Some(answer);
        Ok(answer)
    }
}

/// All expressions.
pub struct Selectors {
    language: Box<dyn Language>,
    known: Mutex<HashMap<String, Arc<Selector>>>,
}

impl Selectors {
    /// Of a language.
    pub fn new(language: Box<dyn Language>) -> Selectors {
        Selectors { language, known: Mutex::default() }
    }

    /// An expression. What is wrong with it is told when a device is held against it.
    pub fn get(&self, expression: &str) -> Arc<Selector> {
        let mut known = self.known.lock();
        if let Some(selector) = known.get(expression) {
            return selector.clone();
        }
        if known.len() >= MOST_EXPRESSIONS {
            known.clear();
        }
        let selector = Arc::new(Selector { program: self.language.compile(expression), answers: Mutex::default() });
        known.insert(expression.to_owned(), selector.clone());
        selector
    }
}
