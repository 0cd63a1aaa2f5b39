//! Chance for scenarios: each draw is a hash of the seed, of what it is for and of its number, so that a draw
//! more or less in one place changes none in another.
//!
//! Where a distribution needs a logarithm, it comes from `libm`, which is the same arithmetic on every
//! machine and in every build.

use orchestrion_world::ledger::digest_of;

/// The draws of one purpose.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    key: u64,
}

impl Draws {
    pub fn new(seed: u64, purpose: &str) -> Draws {
        Draws { key: digest_of(&(seed, purpose)).0 as u64 }
    }

    /// The `number`th draw, of 64 bits.
    pub fn bits(&self, number: u128) -> u64 {
        // SplitMix64's finaliser over the key and both halves of the number.
        let mix = |mut z: u64| {
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let step = |state: u64, word: u64| mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ word);
        step(step(self.key, number as u64), (number >> 64) as u64)
    }

    /// Above 0, at most 1.
    fn unit(&self, number: u128) -> f64 {
        ((self.bits(number) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// A length between the one given and so many thousandths more.
    pub fn stretched(&self, number: u128, length: u64, permille: u64) -> u64 {
        let reach = length.saturating_mul(permille) / 1000;
        length.saturating_add(self.bits(number) % (reach + 1))
    }

    /// A waiting time of a Poisson process, for a mean.
    pub fn exponential(&self, number: u128, mean: f64) -> f64 {
        -libm::log(self.unit(number)) * mean
    }

    /// Lognormal, by its median and the deviation of its logarithm (Box and Muller).
    pub fn lognormal(&self, number: u128, median: f64, sigma: f64) -> f64 {
        let (u, v) = (self.unit(2 * number), self.unit(2 * number + 1));
        let normal = libm::sqrt(-2.0 * libm::log(u)) * libm::cos(2.0 * std::f64::consts::PI * v);
        median * libm::exp(sigma * normal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_moments_of_their_distribution() {
        let draws = Draws::new(7, "test");
        let n = 100_000u32;
        let mean = |draw: &dyn Fn(u128) -> f64| (0..n).map(|i| draw(i.into())).sum::<f64>() / f64::from(n);
        let exponential = mean(&|i| draws.exponential(i, 50.0));
        assert!((exponential - 50.0).abs() < 0.5, "{exponential}");
        let logs = |i| libm::log(draws.lognormal(i, 200.0, 0.5));
        let log_mean = mean(&logs);
        assert!((log_mean - libm::log(200.0)).abs() < 0.01, "{log_mean}");
        let spread = mean(&|i| (logs(i) - log_mean) * (logs(i) - log_mean));
        assert!((libm::sqrt(spread) - 0.5).abs() < 0.01, "{spread}");
        assert!((0..1000).all(|i| (100..=120).contains(&draws.stretched(i, 100, 200))));
    }

    #[test]
    fn draws_are_the_same_on_every_machine_and_differ_by_purpose() {
        let draws = Draws::new(1, "arrivals");
        assert_eq!([draws.bits(0), draws.bits(1)], [11_848_203_123_288_909_167, 17_092_246_846_896_194_768]);
        assert_ne!(draws.bits(0), Draws::new(1, "lengths").bits(0));
        assert_ne!(draws.bits(0), Draws::new(2, "arrivals").bits(0));
        assert_ne!(draws.bits(1), draws.bits(1 << 64));
    }
}
