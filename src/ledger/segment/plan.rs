//! The encoder's choice of formulas: which columns get formulas, and in which order columns are predicted.

use super::bytes::zigzag;
use super::context::{Context, PlacedGroup, SampledOperands};
use super::predict::{Formula, MAX_FORMULAS, Plan, number_to_code};
use super::search::{Depth, Match, Search};

/// Formulas are searched among the first groups only, and only among those of at most so many columns.
const MAX_GROUPS: usize = 16;
const MAX_WIDTH: usize = 64;
/// Maximum number of searches per segment. It bounds the time that encoding takes.
const MAX_SEARCHES: usize = 256;
/// Maximum number of entries on which a formula is evaluated to estimate its cost.
const MAX_TRIALS: usize = 40;
/// Bytes that a formula must save beyond its own size.
const MIN_SAVING: usize = 3;

/// Makes the plan of each group.
pub(super) fn make_plans(groups: &[PlacedGroup<'_, '_>]) -> Vec<Plan> {
    let eligible = |group: &usize| groups[*group].0.width() <= MAX_WIDTH;
    let eligible: Vec<usize> = (0..groups.len()).filter(eligible).take(MAX_GROUPS).collect();
    let context = Context::new(eligible.iter().map(|group| groups[*group]).collect());
    let mut planner = Planner { context, sampled: None, searches: 0 };
    let mut plans = vec![Plan::default(); groups.len()];
    for (index, group) in eligible.into_iter().enumerate() {
        plans[group] = planner.plan(index);
    }
    plans
}

struct Planner<'t, 'a> {
    context: Context<'t, 'a>,
    /// The operands of the last search, which the next one often needs again.
    sampled: Option<SampledOperands>,
    searches: usize,
}

/// A column for which formulas are searched.
struct Target {
    field: usize,
    /// Entries on which formulas are evaluated: some of those in which the value changes.
    trials: Vec<usize>,
    /// Size of each trial's residual, in bytes, if the column is predicted to repeat its last value.
    baseline: Vec<u8>,
    /// Number of entries that one trial stands for.
    weight: usize,
    formulas: Vec<Formula>,
    /// Estimated size of all residuals with these formulas, in bytes.
    cost: usize,
    /// Whether the formulas are exact for most of the trials.
    exact: bool,
}

impl Planner<'_, '_> {
    /// Plans a group. A formula can load other fields of the same entry only if they are decoded before it, so
    /// the columns are ordered one by one: first all that available values predict exactly; if there are none,
    /// the cheapest of the rest.
    fn plan(&mut self, group: usize) -> Plan {
        let mut targets: Vec<Target> =
            self.context.numeric(group).filter_map(|field| self.target(group, field)).collect();
        let mut available = vec![true; self.context.width(group)];
        targets.iter().for_each(|target| available[target.field] = false);
        let mut plan = Plan::default();
        while !targets.is_empty() {
            if !self.find_exact(group, &mut targets, &mut available) {
                let cheapest = targets.iter_mut().min_by_key(|target| target.cost);
                cheapest.into_iter().for_each(|target| target.exact = true);
            }
            for target in targets.extract_if(.., |target| target.exact) {
                available[target.field] = true;
                plan.steps.push((target.field, target.formulas));
            }
        }
        plan
    }

    /// Returns the column as a target if its residuals are large enough to be worth a formula.
    fn target(&self, group: usize, field: usize) -> Option<Target> {
        let code = |entry| self.context.code((group, field), entry);
        let changes: Vec<usize> =
            (1..self.context.entries(group)).filter(|entry| code(*entry) != code(entry - 1)).collect();
        let weight = changes.len().div_ceil(MAX_TRIALS);
        let trials: Vec<usize> = changes.into_iter().step_by(weight.max(1)).collect();
        let baseline: Vec<u8> =
            trials.iter().map(|entry| residual_size(code(*entry).wrapping_sub(code(entry - 1)))).collect();
        let cost = total(&baseline) * weight;
        (cost > 2 * MIN_SAVING).then_some(Target {
            field,
            trials,
            baseline,
            weight,
            formulas: Vec::new(),
            cost,
            exact: false,
        })
    }

    /// Searches until at least one target has exact formulas. Returns whether there is one. The expensive
    /// search runs only if the cheap one finds nothing for any target.
    fn find_exact(&mut self, group: usize, targets: &mut [Target], available: &mut [bool]) -> bool {
        for target in targets.iter_mut() {
            self.find_formulas(group, target, available, Depth::Single);
            available[target.field] |= target.exact;
        }
        targets.iter().any(|target| target.exact)
            || targets.iter_mut().any(|target| {
                self.find_formulas(group, target, available, Depth::Pair);
                target.exact
            })
    }

    /// Searches the formulas of one target, each on the trials for which those before it are no good.
    fn find_formulas(&mut self, group: usize, target: &mut Target, available: &[bool], depth: Depth) {
        target.formulas.clear();
        let mut costs = target.baseline.clone();
        while target.formulas.len() < MAX_FORMULAS {
            // A further formula is only worthwhile for trials on which the first one fails badly.
            let threshold = if target.formulas.is_empty() { 1 } else { 3 };
            let costly = target.trials.iter().zip(&costs).filter(|(_, cost)| **cost >= threshold);
            let costly: Vec<usize> = costly.map(|(trial, _)| *trial).collect();
            let Some(Match { formula, exact }) = self.search(group, target.field, available, depth, &costly)
            else {
                break;
            };
            // The cheap search only accepts exact formulas: the expensive one may still find some.
            if depth == Depth::Single && exact < 2 {
                break;
            }
            let reduced = self.reduce_costs(group, target, available, &formula, &costs);
            if total(&reduced) * target.weight + formula.size() + MIN_SAVING > total(&costs) * target.weight {
                break;
            }
            target.formulas.push(formula);
            costs = reduced;
            // An approximate formula applies to all trials alike: a second one would add nothing.
            if !costs.contains(&0) {
                break;
            }
        }
        target.cost = total(&costs) * target.weight;
        target.exact = costs.iter().filter(|cost| **cost > 0).count() * 4 <= costs.len();
    }

    fn search(
        &mut self,
        group: usize,
        field: usize,
        available: &[bool],
        depth: Depth,
        costly: &[usize],
    ) -> Option<Match> {
        // With fewer trials than samples, some are sampled twice.
        let trial = |at: usize| costly.get(at).or(costly.last()).copied();
        let middle = costly.len() / 2;
        let samples =
            [trial(middle)?, trial(middle + 1)?, trial(costly.len() / 4)?, trial(costly.len() * 3 / 4)?];
        if self.searches == MAX_SEARCHES {
            return None;
        }
        self.searches += 1;
        let sampled = self.sampled.take().filter(|it| it.group == group && it.entries == samples);
        let sampled = self.sampled.insert(sampled.unwrap_or_else(|| self.context.sample(group, samples)));
        let operands = sampled.operands(field, available);
        let column = (group, field);
        let target = samples.map(|entry| self.context.number(column, entry));
        let codes = samples.map(|entry| self.context.code(column, entry));
        let last = self.context.entries(group) - 1;
        let growth = self.context.number(column, last) - self.context.number(column, 0);
        let mean_delta = growth / last as f64;
        let search = Search::new(self.context.kind(column), codes, target, &operands);
        search.run(depth, operands.first()?, mean_delta)
    }

    /// Returns the size of each trial's residual if the target may use `formula` wherever that is better than
    /// `costs`.
    fn reduce_costs(
        &self,
        group: usize,
        target: &Target,
        available: &[bool],
        formula: &Formula,
        costs: &[u8],
    ) -> Vec<u8> {
        let column = (group, target.field);
        let numbers = self.context.evaluate(formula, group, available, &target.trials);
        let cost = |((number, entry), cost): ((f64, &usize), &u8)| {
            let prediction = number_to_code(self.context.kind(column), number);
            residual_size(self.context.code(column, *entry).wrapping_sub(prediction)).min(*cost)
        };
        numbers.into_iter().zip(&target.trials).zip(costs).map(cost).collect()
    }
}

/// Size of an encoded residual in bytes. 0 counts as none: runs of zeros are nearly free.
fn residual_size(residual: i64) -> u8 {
    (u64::BITS - zigzag(residual).leading_zeros()).div_ceil(7) as u8
}

fn total(costs: &[u8]) -> usize {
    costs.iter().map(|cost| usize::from(*cost)).sum()
}
