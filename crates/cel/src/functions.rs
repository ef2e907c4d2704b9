//! Declarations of functions (`common/decls` of cel-go): a name, and overloads that differ in the types they take.

use std::collections::HashMap;

use crate::eval::EvalError;
use crate::types::Type;
use crate::value::Value;

/// What an overload does. All arguments are values, the receiver being the first.
pub(crate) type Native = for<'a> fn(&[Value<'a>]) -> Result<Value<'a>, EvalError>;

/// One way to call a function.
#[derive(Clone, Debug)]
pub(crate) struct Overload {
    /// Upstream's name; costs depend on it.
    pub(crate) id: &'static str,
    /// Called as `target.name(..)`.
    pub(crate) member: bool,
    /// With the receiver first.
    pub(crate) params: Vec<Type>,
    pub(crate) result: Type,
    pub(crate) native: Native,
}

/// Functions by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Functions(HashMap<&'static str, Vec<Overload>>);

impl Functions {
    /// A function called as `name(..)`.
    pub(crate) fn global(
        &mut self,
        name: &'static str,
        id: &'static str,
        params: impl Into<Vec<Type>>,
        result: Type,
        native: Native,
    ) {
        self.add(name, Overload { id, member: false, params: params.into(), result, native });
    }

    /// A function called as `target.name(..)`; the type of the target is the first one.
    pub(crate) fn member(
        &mut self,
        name: &'static str,
        id: &'static str,
        params: impl Into<Vec<Type>>,
        result: Type,
        native: Native,
    ) {
        self.add(name, Overload { id, member: true, params: params.into(), result, native });
    }

    /// Libraries may be asked for twice; an overload is there once.
    fn add(&mut self, name: &'static str, overload: Overload) {
        let all = self.0.entry(name).or_default();
        if all.iter().all(|o| o.id != overload.id || o.member != overload.member) {
            all.push(overload);
        }
    }

    /// The name as declared, and the overloads.
    pub(crate) fn get(&self, name: &str) -> Option<(&'static str, &[Overload])> {
        self.0.get_key_value(name).map(|(name, all)| (*name, all.as_slice()))
    }
}
