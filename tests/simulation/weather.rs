//! What goes wrong, and how often: drawn once for each seed, so that some see much of one trouble and none of another.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus as Dice;

/// Chances in ten thousand.
#[derive(Debug, Clone, Default)]
pub struct Weather {
    /// A store, queue or vault says that it is busy, and does nothing.
    pub throttled: u32,
    /// A request gets lost: nothing takes place.
    pub request_lost: u32,
    /// An answer gets lost: it took place.
    pub answer_lost: u32,
    /// The SDK's own repetition: it takes place twice, and the second answer counts.
    pub repeated: u32,
    /// A request takes place long after its caller gave up.
    pub late: u32,
    /// A call takes seconds.
    pub slow: u32,
    /// An environment dies at an await point.
    pub crash: u32,
    /// Twilio does not answer a POST as it should.
    pub post: u32,
    /// Twilio cannot be asked for its list.
    pub list: u32,
    /// A callback never comes.
    pub callback_lost: u32,
    /// A callback comes up to two hours later.
    pub callback_late: u32,
    /// A callback comes twice.
    pub callback_twice: u32,
    /// A queue gives a message twice.
    pub queue_twice: u32,
    /// A queue forgets that a message was done.
    pub delete_lost: u32,
    /// A whole queue of hints is lost, at a sweep.
    pub purge: u32,
    /// An environment's clock jumps by up to half a minute, when it is used.
    pub jump: u32,
    /// The API's answer does not reach its caller.
    pub reply_lost: u32,
}

impl Weather {
    /// Nothing goes wrong.
    pub fn calm() -> Self {
        Self::default()
    }

    /// Each trouble is absent, rare, usual or frequent by itself.
    pub fn drawn(dice: &mut Dice) -> Self {
        let mut often = |usual: u32| usual * [0, 3, 10, 30][dice.random_range(0..4)] / 10;
        Self {
            throttled: often(300),
            request_lost: often(60),
            answer_lost: often(100),
            repeated: often(150),
            late: often(40),
            slow: often(60),
            crash: often(12),
            post: often(800),
            list: often(1_500),
            callback_lost: often(600),
            callback_late: often(600),
            callback_twice: often(1_000),
            queue_twice: often(300),
            delete_lost: often(200),
            purge: often(200),
            jump: often(500),
            reply_lost: often(400),
        }
    }
}
