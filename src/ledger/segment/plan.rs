//! Which columns are foretold by which formulas, and in which order: the encoder's choice.

use super::bytes::zigzag;
use super::predict::{Formula, MAX_FORMULAS, Plan, code_of_prediction};
use super::relate::{Depth, Found, Search};
use super::survey::{Placed, Survey, View};

/// Relations are looked for among so many shapes, the first ones, of at most so many columns each.
const MAX_GROUPS: usize = 16;
const MAX_WIDTH: usize = 64;
/// How many searches may be made for a segment: what bounds the encoder's time.
const MAX_SEARCHES: usize = 256;
/// At how many entries formulas are tried out.
const MAX_SITES: usize = 40;
/// How many bytes a formula must save beyond its own.
const WORTH: usize = 3;

/// The plan of each group.
pub(super) fn plans(groups: &[Placed<'_, '_>]) -> Vec<Plan> {
    let chosen = |group: &usize| groups[*group].0.width() <= MAX_WIDTH;
    let chosen: Vec<usize> = (0..groups.len()).filter(chosen).take(MAX_GROUPS).collect();
    let survey = Survey::of(chosen.iter().map(|group| groups[*group]).collect());
    let mut planner = Planner { survey, view: None, searches: 0 };
    let mut plans = vec![Plan::default(); groups.len()];
    for (place, group) in chosen.into_iter().enumerate() {
        plans[group] = planner.plan(place);
    }
    plans
}

struct Planner<'t, 'a> {
    survey: Survey<'t, 'a>,
    /// What the last search saw.
    view: Option<View>,
    searches: usize,
}

/// A leaf for which formulas are looked for.
struct Open {
    leaf: usize,
    /// Some of the entries in which it is not as it was in the one before.
    sites: Vec<usize>,
    /// The bytes that it takes in these if it is foretold to be as it was.
    plain: Vec<u8>,
    /// How many entries a site stands for.
    weight: usize,
    formulas: Vec<Formula>,
    /// The bytes that it takes in all entries with the formulas.
    remaining: usize,
    /// Whether the formulas are right for most of the sites.
    exact: bool,
}

impl Planner<'_, '_> {
    /// Formulas for a group's leaves. What one entry's leaves are foretold from must be known by then,
    /// so leaves are taken one after another: first those that can be foretold exactly from what is
    /// there, and if there are none, the one that costs least.
    fn plan(&mut self, group: usize) -> Plan {
        let mut open: Vec<Open> =
            self.survey.numeric(group).filter_map(|leaf| self.open(group, leaf)).collect();
        let mut known = vec![true; self.survey.width(group)];
        open.iter().for_each(|leaf| known[leaf.leaf] = false);
        let mut plan = Plan::default();
        while !open.is_empty() {
            if !self.improve_all(group, &mut open, &mut known) {
                let cheapest = open.iter_mut().min_by_key(|leaf| leaf.remaining);
                cheapest.into_iter().for_each(|leaf| leaf.exact = true);
            }
            for leaf in open.extract_if(.., |leaf| leaf.exact) {
                known[leaf.leaf] = true;
                plan.steps.push((leaf.leaf, leaf.formulas));
            }
        }
        plan
    }

    /// A leaf, if it changes often enough to be worth a formula.
    fn open(&self, group: usize, leaf: usize) -> Option<Open> {
        let code = |entry| self.survey.code((group, leaf), entry);
        let changes: Vec<usize> =
            (1..self.survey.entries(group)).filter(|entry| code(*entry) != code(entry - 1)).collect();
        let weight = changes.len().div_ceil(MAX_SITES);
        let sites: Vec<usize> = changes.into_iter().step_by(weight.max(1)).collect();
        let plain: Vec<u8> =
            sites.iter().map(|entry| size(code(*entry).wrapping_sub(code(entry - 1)))).collect();
        let remaining = total(&plain) * weight;
        let worth = remaining > 2 * WORTH;
        worth.then_some(Open { leaf, sites, plain, weight, formulas: Vec::new(), remaining, exact: false })
    }

    /// Looks for formulas until one leaf or several can be foretold exactly; whether there are any.
    fn improve_all(&mut self, group: usize, open: &mut [Open], known: &mut [bool]) -> bool {
        for leaf in open.iter_mut() {
            self.improve(group, leaf, known, Depth::Single);
            known[leaf.leaf] |= leaf.exact;
        }
        open.iter().any(|leaf| leaf.exact)
            || open.iter_mut().any(|leaf| {
                self.improve(group, leaf, known, Depth::Pair);
                leaf.exact
            })
    }

    /// Looks for the formulas of one leaf, each for sites that those before it did not help.
    fn improve(&mut self, group: usize, leaf: &mut Open, known: &[bool], depth: Depth) {
        leaf.formulas.clear();
        let mut costs = leaf.plain.clone();
        while leaf.formulas.len() < MAX_FORMULAS {
            // A second formula is for sites that the first is useless for.
            let least = if leaf.formulas.is_empty() { 1 } else { 3 };
            let costly = leaf.sites.iter().zip(&costs).filter(|(_, cost)| **cost >= least);
            let costly: Vec<usize> = costly.map(|(site, _)| *site).collect();
            let Some(Found { formula, exact }) = self.search(group, leaf.leaf, known, depth, &costly) else {
                break;
            };
            // As long as there may be an exact one, others are not worth a look.
            if depth == Depth::Single && exact < 2 {
                break;
            }
            let better = self.costs(group, leaf, known, &formula, &costs);
            if total(&better) * leaf.weight + formula.size() + WORTH > total(&costs) * leaf.weight {
                break;
            }
            leaf.formulas.push(formula);
            costs = better;
            // A rough formula is one for all sites.
            if !costs.contains(&0) {
                break;
            }
        }
        leaf.remaining = total(&costs) * leaf.weight;
        leaf.exact = costs.iter().filter(|cost| **cost > 0).count() * 4 <= costs.len();
    }

    fn search(
        &mut self,
        group: usize,
        leaf: usize,
        known: &[bool],
        depth: Depth,
        costly: &[usize],
    ) -> Option<Found> {
        // Of a few sites some are taken twice.
        let site = |at: usize| costly.get(at).or(costly.last()).copied();
        let middle = costly.len() / 2;
        let samples =
            [site(middle)?, site(middle + 1)?, site(costly.len() / 4)?, site(costly.len() * 3 / 4)?];
        if self.searches == MAX_SEARCHES {
            return None;
        }
        self.searches += 1;
        let view = self.view.take().filter(|view| view.group == group && view.samples == samples);
        let view = self.view.insert(view.unwrap_or_else(|| self.survey.view(group, samples)));
        let operands = view.operands(leaf, known);
        let place = (group, leaf);
        let target = samples.map(|entry| self.survey.number(place, entry));
        let codes = samples.map(|entry| self.survey.code(place, entry));
        // What it grows by from entry to entry, on average.
        let last = self.survey.entries(group) - 1;
        let pace = (self.survey.number(place, last) - self.survey.number(place, 0)) / last as f64;
        Search::new(self.survey.kind(place), codes, target, &operands).run(depth, operands.first()?, pace)
    }

    /// The bytes that a leaf takes at its sites with `formula`, where that is less than `costs`.
    fn costs(&self, group: usize, leaf: &Open, known: &[bool], formula: &Formula, costs: &[u8]) -> Vec<u8> {
        let place = (group, leaf.leaf);
        let numbers = self.survey.evaluate(formula, group, known, &leaf.sites);
        let cost = |((number, entry), cost): ((f64, &usize), &u8)| {
            let prediction = code_of_prediction(self.survey.kind(place), number);
            size(self.survey.code(place, *entry).wrapping_sub(prediction)).min(*cost)
        };
        numbers.into_iter().zip(&leaf.sites).zip(costs).map(cost).collect()
    }
}

/// The bytes that a residual takes: none if it is 0.
fn size(residual: i64) -> u8 {
    (u64::BITS - zigzag(residual).leading_zeros()).div_ceil(7) as u8
}

fn total(costs: &[u8]) -> usize {
    costs.iter().map(|cost| usize::from(*cost)).sum()
}
