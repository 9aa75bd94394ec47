//! SQS, simulated: standard queues with visibility, receive counts, dead letters; at least once, in any order.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus as Dice;
use telbuddy::platform::{Job, Queue};

/// As in the template.
pub const VISIBILITY: SignedDuration = SignedDuration::from_secs(180);
const MOST_RECEIVES: u32 = 5;
const BATCH: usize = 10;

struct Waiting {
    id: u64,
    job: Job,
    visible: Timestamp,
    receives: u32,
}

/// Names a message of a queue.
pub type Receipt = (Queue, u64);

#[derive(Default)]
pub struct SimulatedQueues {
    last_id: u64,
    /// Messages that were given again.
    pub redelivered: u64,
    waiting: BTreeMap<Queue, Vec<Waiting>>,
    dead: BTreeMap<Queue, Vec<Job>>,
}

impl SimulatedQueues {
    pub fn push(&mut self, job: Job, visible: Timestamp) {
        self.last_id += 1;
        let waiting = Waiting { id: self.last_id, job, visible, receives: 0 };
        self.waiting.entry(waiting.job.queue()).or_default().push(waiting);
    }

    /// One to ten of the messages that are visible, in any order. They become visible again unless they are deleted.
    pub fn receive(&mut self, queue: Queue, now: Timestamp, dice: &mut Dice) -> Vec<(Receipt, Job)> {
        let waiting = self.waiting.entry(queue).or_default();
        let worn_out = waiting.extract_if(.., |one| one.visible <= now && one.receives >= MOST_RECEIVES);
        self.dead.entry(queue).or_default().extend(worn_out.map(|one| one.job));
        let mut visible: Vec<usize> = (0..waiting.len()).filter(|at| waiting[*at].visible <= now).collect();
        let n = visible.len().min(dice.random_range(1..=BATCH));
        (0..n)
            .map(|_| {
                let at = visible.swap_remove(dice.random_range(0..visible.len()));
                let one = &mut waiting[at];
                one.visible = now + VISIBILITY;
                self.redelivered += u64::from(one.receives > 0);
                one.receives += 1;
                ((queue, one.id), one.job.clone())
            })
            .collect()
    }

    pub fn delete(&mut self, (queue, id): Receipt) {
        if let Some(waiting) = self.waiting.get_mut(&queue) {
            waiting.retain(|one| one.id != id);
        }
    }

    /// When the next message of a queue is visible.
    pub fn next(&self, queue: Queue) -> Option<Timestamp> {
        self.waiting.get(&queue)?.iter().map(|one| one.visible).min()
    }

    /// All that waits in a queue is lost.
    pub fn purge(&mut self, queue: Queue) {
        self.waiting.remove(&queue);
    }

    /// Dead letters go back, as the runbook has it.
    pub fn redrive(&mut self, now: Timestamp) {
        for job in std::mem::take(&mut self.dead).into_values().flatten() {
            self.push(job, now);
        }
    }

    /// Whether nothing waits in these queues, dead letters included.
    pub fn are_empty(&self, queues: &[Queue]) -> bool {
        queues.iter().all(|queue| {
            self.waiting.get(queue).is_none_or(Vec::is_empty) && self.dead.get(queue).is_none_or(Vec::is_empty)
        })
    }
}
