//! What one parse has put aside: wrong values that a stand-in replaces, keys left out, keys supplied.

use super::error::{Error, Id, What};
use crate::tree::node::{Node, shorten};
use crate::tree::place::Place;
use crate::tree::problem::{Problem, Severity, WRITTEN_OUT};
use crate::tree::suggest;
use std::collections::HashSet;

#[derive(Default)]
pub(super) struct State<'s> {
    pub(super) also_known: &'s [&'static str],
    /// Values replaced by stand-ins.
    pub(super) standing_in: HashSet<Id>,
    /// Values left out of their mapping or list.
    pub(super) left_out: HashSet<Id>,
    /// Keys supplied to a mapping.
    pub(super) supplied: HashSet<(Id, &'static str)>,
    /// Values with any of these below them: their own complaints may be consequences.
    pub(super) touched: HashSet<Id>,
}

impl State<'_> {
    /// Notes the error unless it is the consequence of an earlier one. False if nothing can be done about it.
    pub(super) fn neutralise(&mut self, root: &Node, error: Error, found: &mut Vec<Problem>) -> bool {
        let Some((at, above)) = error.trail.split_first() else {
            found.push(problem(root.place, error.to_string()));
            return false;
        };
        // The trail holds addresses inside of `root`, which outlives this call.
        let Some(node) = find(root, *at, &error.trail) else { return false };
        let known_before = self.touched.contains(at) || self.standing_in.contains(at);
        match error.what {
            What::UnknownKey { key, expected } => {
                let Some(entry) =
                    node.entries().iter().find(|entry| *entry.key == *key && !self.left_out.contains(&(&raw const entry.value)))
                else {
                    return self.stand_in(*at, above);
                };
                let candidates = expected.iter().copied().chain(if above.is_empty() { self.also_known } else { &[] }.iter().copied());
                let mut problem = problem(entry.value.place.key(), format!("unknown key `{key}`"));
                problem.help(suggest::help(&key, "keys here", candidates));
                found.push(problem);
                self.left_out.insert(&raw const entry.value);
                self.touch(&error.trail);
                true
            }
            What::MissingKey(key) => {
                let misspelt = node.entries().iter().any(|entry| {
                    self.left_out.contains(&(&raw const entry.value))
                        && (&*entry.key == key || suggest::nearest(&entry.key, [key]).is_some())
                });
                if !misspelt {
                    let mut problem = problem(node.place, format!("the key `{key}` is missing"));
                    problem.help(format!("add `{key}: ..`"));
                    found.push(problem);
                }
                self.touch(&error.trail);
                self.supplied.insert((*at, key)) || self.stand_in(*at, above)
            }
            What::Within(problems) => {
                found.extend(problems.into_iter().map(|mut problem| {
                    if problem.place.is_none() {
                        problem.place = node.place;
                    }
                    problem
                }));
                self.stand_in(*at, above)
            }
            What::StandIn => self.stand_in(*at, above),
            What::WrittenOut => {
                let mut problem = with_help(problem(node.place, WRITTEN_OUT.into()), WRITTEN_OUT);
                problem.secret = node.text().cloned();
                found.push(problem);
                self.stand_in(*at, above)
            }
            What::Key(message) => {
                found.push(with_help(problem(node.place.key(), message.clone()), &message));
                self.left_out.insert(*at);
                self.touch(above);
                true
            }
            What::Wrong(message) => {
                if !known_before {
                    found.push(wrong(node, message));
                }
                self.stand_in(*at, above)
            }
            What::Type { expected } => {
                if !known_before {
                    found.push(problem(node.place, format!("expected {expected}, found {}", node.describe())));
                }
                self.stand_in(*at, above)
            }
            What::Variant { variant, expected } => {
                if !known_before {
                    let written = node.text().and_then(|text| text.reference()).map_or(shorten(&variant), str::to_owned);
                    let mut problem = problem(node.place, format!("`{written}` is not one of {}", suggest::list(expected)));
                    if let Some(near) = suggest::nearest(&variant, expected.iter().copied()) {
                        problem.help(format!("did you mean `{near}`?"));
                    }
                    found.push(problem);
                }
                self.stand_in(*at, above)
            }
        }
    }

    /// Lets a stand-in take the value's place; where one already has, leaves the value out. False at the root.
    pub(super) fn stand_in(&mut self, at: Id, above: &[Id]) -> bool {
        self.touch(above);
        self.standing_in.insert(at) || (!above.is_empty() && self.left_out.insert(at))
    }

    pub(super) fn touch(&mut self, trail: &[Id]) {
        self.touched.extend(trail);
    }
}

/// Follows the trail from the root down to the node at its beginning.
fn find<'n>(root: &'n Node, wanted: Id, trail: &[Id]) -> Option<&'n Node> {
    let mut node = root;
    while !std::ptr::eq(node, wanted) {
        node = node
            .items()
            .iter()
            .chain(node.entries().iter().map(|entry| &entry.value))
            .find(|child| trail.contains(&(&raw const **child)))?;
    }
    Some(node)
}

fn problem(place: Place, message: String) -> Problem {
    Problem { severity: Severity::Error, place, message, help: None, is_plain: false, related: Vec::new(), secret: None }
}

/// A problem with a value, in the words of the type that refused it. What those words quote may be a secret.
fn wrong(node: &Node, message: String) -> Problem {
    match node.text().and_then(|text| text.reference().map(|reference| (text, reference))) {
        None => with_help(problem(node.place, message.clone()), &message),
        Some((text, reference)) => {
            let quoted = !text.as_str().is_empty() && message.contains(text.as_str());
            let message = match quoted {
                true => message.replace(text.as_str(), reference),
                false => format!("the value of `{reference}` is not accepted here"),
            };
            with_help(problem(node.place, message.clone()), &message)
        }
    }
}

/// In the house's voice a message says what failed, then after `; ` what to do.
fn with_help(mut problem: Problem, message: &str) -> Problem {
    if let Some((what, help)) = message.split_once("; ") {
        problem.message = what.to_owned();
        problem.help(help.to_owned());
    }
    problem
}
