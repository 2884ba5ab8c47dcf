use std::path::Path;

use super::*;
use crate::runs::read_trained_runs;

/// Noise that is the same everywhere, roughly normal: sums of twelve uniform numbers.
fn noise(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..count)
        .map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0)
        .collect()
}

fn curves(name: &str, losses: Vec<f64>) -> RunCurves {
    let steps: Vec<u64> = (1..=losses.len() as u64).collect();
    RunCurves {
        name: name.to_owned(),
        grad_norms: losses.clone(),
        supervised_tokens: steps.iter().map(|step| 600 + step * 7 % 50).collect(),
        steps,
        losses,
        skipped_steps: 0,
    }
}

/// A falling loss with noise of a deviation.
fn falling(deviation: f64, seed: u64) -> Vec<f64> {
    let noise = noise(seed, 300).into_iter().enumerate();
    let value = |(step, noise)| 0.4 + (-0.03 * step as f64).exp() + deviation * noise;
    noise.map(value).collect()
}

#[test]
fn the_deviation_is_the_noise_and_not_the_fall() {
    let options = StabilityOptions::default();
    let of = |seed| Stability::of(&curves("run", falling(0.02, seed)), &options).loss;
    let losses: Vec<Scatter> = (0..8).map(of).collect();
    let mean_of = |figure: fn(&Scatter) -> f64| losses.iter().map(figure).sum::<f64>() / 8.0;
    // The trend takes a little of the noise with it.
    let deviation = mean_of(|loss| loss.deviation);
    assert!((0.018..0.0205).contains(&deviation), "{deviation}");
    let robust = mean_of(|loss| loss.robust_deviation);
    assert!((0.0165..0.0205).contains(&robust), "{robust}");
    for loss in &losses {
        assert!(loss.variance_ci95[0] < loss.variance && loss.variance < loss.variance_ci95[1]);
    }
    // Of 2,400 steps.
    let spikes: usize = losses.iter().map(|loss| loss.spikes.len()).sum();
    assert!(spikes <= 3, "{spikes}");
}

#[test]
fn spikes_are_steps_far_above_the_trend() {
    let mut losses = falling(0.02, 2);
    for at in [4, 150, 298] {
        losses[at] += 0.3;
    }
    losses[200] -= 0.3; // a fall is no spike
    let stability = Stability::of(&curves("run", losses), &StabilityOptions::default());
    assert_eq!(stability.loss.spikes, [5, 151, 299]);
    let tolerant = StabilityOptions {
        spike: 40.0,
        ..Default::default()
    };
    let stability = Stability::of(&curves("run", falling(0.02, 2)), &tolerant);
    assert_eq!(stability.loss.spikes, [0; 0]);
}

#[test]
fn runs_on_the_same_rows_are_compared_step_by_step() {
    let options = StabilityOptions::default();
    let noisy = Stability::of(&curves("noisy", falling(0.04, 3)), &options);
    let calm = Stability::of(&curves("calm", falling(0.02, 4)), &options);
    let of = |differences: &[SteadinessDifference]| differences[0];
    let paired = of(&calm.less(&noisy));
    assert_eq!(
        (paired.quantity, paired.pairing),
        (Quantity::LossVariance, Pairing::Paired)
    );
    assert!((paired.difference - (calm.loss.variance - noisy.loss.variance)).abs() < 1e-12);
    assert!(paired.ci95[1] < 0.0 && paired.p_value < 0.01, "{paired:?}");

    let mut others = curves("others", falling(0.02, 4));
    others.supervised_tokens[100] += 1;
    let unpaired = of(&Stability::of(&others, &options).less(&noisy));
    assert_eq!(unpaired.pairing, Pairing::Unpaired);
    assert!(unpaired.p_value < 0.01, "{unpaired:?}");

    let same = of(&noisy.less(&noisy));
    assert_eq!((same.difference, same.p_value), (0.0, 1.0));
}

/// Two runs of one recipe must not be told apart more often than the test allows.
#[test]
fn equal_noise_is_rarely_called_different() {
    let options = StabilityOptions::default();
    let found = (0..40).filter(|seed| {
        let [a, b] = [2 * seed, 2 * seed + 1]
            .map(|seed| Stability::of(&curves("run", falling(0.03, 100 + seed)), &options));
        b.less(&a)[0].p_value < 0.05
    });
    let found = found.count();
    assert!(
        found <= 6,
        "{found} of 40 were called different, and none is"
    );
}

#[test]
fn a_run_is_read_with_its_skipped_steps() {
    let folder = tempfile::tempdir().unwrap();
    let line = |step: u64| {
        format!(
            "{{\"step\":{step},\"loss\":1.5,\"grad_norm\":0.3,\"supervised_tokens\":7,\"new\":1}}\n"
        )
    };
    let text: String = (1..=12).filter(|step| *step != 5).map(line).collect();
    std::fs::write(folder.path().join("metrics.jsonl"), &text).unwrap();
    std::fs::write(folder.path().join("non_finite.jsonl"), "{\"step\":5}\n").unwrap();
    let read = |from| {
        let curves = RunCurves::read(folder.path(), from).unwrap();
        (curves.steps.len(), curves.skipped_steps)
    };
    assert_eq!([read(1), read(4)], [(11, 1), (8, 1)]);
    let error = RunCurves::read(folder.path(), 6).unwrap_err();
    assert!(error.to_string().contains("7 training steps"), "{error}");

    std::fs::write(folder.path().join("metrics.jsonl"), line(1)).unwrap();
    let error = RunCurves::read(folder.path(), 1).unwrap_err();
    assert!(error.to_string().contains("1 training steps"), "{error}");
}

#[test]
fn figures_are_those_of_numpy_and_scipy() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden/stability.json");
    let text = std::fs::read_to_string(path).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let floats = |value: &serde_json::Value| -> Vec<f64> {
        let values = value.as_array().unwrap().iter();
        values.map(|value| value.as_f64().unwrap()).collect()
    };
    let near = |ours: f64, theirs: &serde_json::Value, tolerance: f64, what: &str| {
        let theirs = theirs.as_f64().unwrap();
        assert!(
            (ours - theirs).abs() <= tolerance * theirs.abs().max(1e-12),
            "{what}: {ours} {theirs}"
        );
    };
    let mut runs = Vec::new();
    for run in golden["runs"].as_array().unwrap() {
        let curves = RunCurves {
            name: "golden".to_owned(),
            steps: floats(&run["steps"])
                .iter()
                .map(|step| *step as u64)
                .collect(),
            losses: floats(&run["losses"]),
            grad_norms: floats(&run["grad_norms"]),
            supervised_tokens: floats(&run["supervised_tokens"])
                .iter()
                .map(|count| *count as u64)
                .collect(),
            skipped_steps: 0,
        };
        let ours = Stability::of(&curves, &StabilityOptions::default());
        let expected = &run["expected"];
        for (name, curve) in [("loss", &ours.loss), ("grad_norm", &ours.grad_norm)] {
            let expected = &expected[name];
            near(curve.variance, &expected["variance"], 1e-9, name);
            near(
                curve.robust_deviation,
                &expected["robust_deviation"],
                1e-9,
                name,
            );
            near(
                curve.relative_deviation,
                &expected["relative_deviation"],
                1e-9,
                name,
            );
            let spikes: Vec<f64> = curve.spikes.iter().map(|step| *step as f64).collect();
            assert_eq!(spikes, floats(&expected["spikes"]));
            // Bootstraps draw other blocks.
            for (end, theirs) in expected["variance_ci95"]
                .as_array()
                .unwrap()
                .iter()
                .enumerate()
            {
                near(curve.variance_ci95[end], theirs, 0.08, "interval");
            }
        }
        near(
            ours.grad_norm_mean,
            &expected["grad_norm_mean"],
            1e-12,
            "mean",
        );
        near(
            ours.grad_norm_median,
            &expected["grad_norm_median"],
            1e-12,
            "median",
        );
        near(ours.grad_norm_p95, &expected["grad_norm_p95"], 1e-12, "p95");
        near(
            ours.grad_norm_variation,
            &expected["grad_norm_variation"],
            1e-9,
            "variation",
        );
        runs.push(ours);
    }
    for (ours, expected) in runs[1]
        .less(&runs[0])
        .iter()
        .zip(golden["differences"].as_array().unwrap())
    {
        assert_eq!(ours.pairing, Pairing::Paired);
        near(ours.difference, &expected["difference"], 1e-9, "difference");
        let p_value = expected["p_value"].as_f64().unwrap();
        assert!((ours.p_value - p_value).abs() < 0.02, "{ours:?} {expected}");
        // Ends of an interval, against its width.
        let ends = floats(&expected["ci95"]);
        for (end, theirs) in ends.iter().enumerate() {
            let width = (ends[1] - ends[0]).max(1e-12);
            assert!(
                (ours.ci95[end] - theirs).abs() < 0.08 * width,
                "{ours:?} {expected}"
            );
        }
    }
}

/// Runs of before there were gradient norms in the report, or any new field.
#[test]
fn old_metrics_stay_readable() {
    let folder = tempfile::tempdir().unwrap();
    let line = "{\"step\":1,\"epoch\":0.004,\"loss\":1.38,\"grad_norm\":0.29,\"lr\":0.00008,\"tokens\":2606,\
                \"supervised_tokens\":680,\"seconds\":7.5,\"tokens_per_s\":343.9}\n";
    std::fs::write(folder.path().join("metrics.jsonl"), line).unwrap();
    assert_eq!(
        read_trained_runs(&[folder.path().to_owned()]).unwrap()[0]
            .losses
            .len(),
        1
    );
}
