"""Cuts as they come out of recordings: what is planned, read, joined, and how batches follow."""

import numpy as np
import pandas
import pytest
import soundfile

from cress_svcd.data.audio import read_audio, resampled_length
from cress_svcd.data.cut_variation import (
    EDGES,
    LENGTH_TOLERANCE,
    NEIGHBOUR_SECONDS,
    CutVariation,
    Plan,
    Surroundings,
    coloured_noise,
    read_varied,
    with_joined,
)
from cress_svcd.errors import ConfigError, ManifestError

RATE = 16_000
LENGTHS = np.full(2000, 3 * RATE)


def plan_of(before, after, gain=0.0, snr=np.nan, telephone=False) -> Plan:
    return Plan(
        np.array([before]),
        np.array([after]),
        np.array([gain]),
        np.array([snr]),
        np.array([telephone]),
    )


@pytest.fixture
def recording(tmp_path):
    """Five seconds of a ramp: each sample says where it stood."""
    ramp = np.linspace(0, 0.5, 5 * RATE, dtype=np.float32)
    soundfile.write(tmp_path / "talk.wav", ramp, RATE, subtype="FLOAT")
    return tmp_path, ramp


def read(recording, plan, audio, others=()):
    folder, _ = recording
    surroundings = Surroundings([audio, *others])
    frames = int(audio.rpartition(":")[2])
    return read_varied(audio, str(folder), frames, plan, surroundings, 0, np.random.default_rng(1))


class TestPlans:
    def test_the_seed_and_the_epoch_decide(self):
        first = CutVariation(0.7, seed=3).plan(2, LENGTHS)
        for mine, again in zip(first, CutVariation(0.7, seed=3).plan(2, LENGTHS)):
            np.testing.assert_array_equal(mine, again)
        for other in (
            CutVariation(0.7, seed=4).plan(2, LENGTHS),
            CutVariation(0.7, seed=3).plan(3, LENGTHS),
        ):
            assert (first.before != other.before).mean() > 0.5

    def test_the_share_is_varied_and_the_rest_is_exact(self):
        plan = CutVariation(0.7).plan(1, LENGTHS)
        exact = (plan.before == 0) & (plan.after == 0) & (plan.gain == 0)
        exact &= np.isnan(plan.snr) & ~plan.telephone
        assert exact.mean() == pytest.approx(0.3, abs=0.04)
        still = CutVariation(0).plan(1, LENGTHS)
        assert not still.before.any() and not still.gain.any() and np.isnan(still.snr).all()

    def test_edges_stay_within_their_bounds(self):
        plan = CutVariation(1).plan(1, LENGTHS)
        lowest, highest = EDGES[0][1] * RATE, EDGES[-1][2] * RATE
        for edge in (plan.before, plan.after):
            assert lowest <= edge.min() < 0 and highest / 2 < edge.max() <= highest

    def test_nothing_grows_beyond_what_training_takes(self):
        lengths = np.array([3 * RATE, 10 * RATE, 12 * RATE] * 300)
        plan = CutVariation(1).plan(1, lengths, longest=10 * RATE)
        varied = lengths + plan.before + plan.after
        assert varied[1::3].max() <= 10 * RATE and (varied[2::3] <= 12 * RATE).all()

    def test_short_segments_keep_what_they_have(self):
        lengths = np.full(500, 4000)  # a quarter of a second
        plan = CutVariation(1).plan(1, lengths)
        assert plan.before.min() == 0 == plan.after.min()

    @pytest.mark.parametrize("share", [-0.1, 1.5])
    def test_a_share_is_between_0_and_1(self, share):
        with pytest.raises(ConfigError, match=f"--vary-cuts is {share}, expected 0"):
            CutVariation(share)


class TestReading:
    def test_what_stands_around_a_segment_is_let_in(self, recording):
        others = ("talk.wav:0:8000", "talk.wav:64000:8000")
        wave = read(recording, plan_of(4000, 6000), "talk.wav:32000:16000", others)
        np.testing.assert_allclose(wave, recording[1][28000:54000], atol=1e-6)

    def test_of_a_neighbour_no_more_than_a_part(self, recording):
        others = ("talk.wav:16000:15000", "talk.wav:49000:16000")
        wave = read(recording, plan_of(16000, 16000), "talk.wav:32000:16000", others)
        part = round(NEIGHBOUR_SECONDS * RATE)
        real = recording[1][31000 - part : 49000 + part]
        start = 16000 - 1000 - part
        np.testing.assert_allclose(wave[start : start + len(real)], real, atol=1e-6)
        assert len(wave) == 48000 and abs(wave[:start]).max() < real.max() / 20

    def test_where_nothing_is_known_there_is_silence(self, recording):
        wave = read(recording, plan_of(800, 1600), "talk.wav:0:16000")
        np.testing.assert_allclose(wave[800:16800], recording[1][:16000], atol=1e-6)
        assert len(wave) == 18400 and abs(wave[:800]).max() < 0.02

    def test_of_shards_nothing_that_stands_next_to_a_segment(self, recording):
        folder, ramp = recording
        audio = ["talk.wav:32000:16000", "talk.wav:16000:16000", "talk.wav:48000:16000"]
        plan, random = plan_of(4000, 4000), np.random.default_rng(1)
        shards = Surroundings(audio, kept=False)
        wave = read_varied(audio[0], str(folder), 16000, plan, shards, 0, random)
        np.testing.assert_allclose(wave[4000:20000], ramp[32000:48000], atol=1e-6)
        assert max(abs(wave[:4000]).max(), abs(wave[20000:]).max()) < ramp[32000] / 5

    @pytest.mark.parametrize("before, after", [(0, 0), (800, 1600), (-300, 500), (-300, -200)])
    def test_a_segment_that_is_not_as_long_as_n_frames_says(self, recording, before, after):
        folder, _ = recording
        audio, plan, random = "talk.wav:32000:16000", plan_of(before, after), np.random.default_rng
        surroundings = Surroundings([audio, "talk.wav:0:8000"])

        def length(n_frames: int) -> int:
            plan_and_place = (plan, surroundings, 0, random(1))
            return len(read_varied(audio, str(folder), n_frames, *plan_and_place))

        for off in (-LENGTH_TOLERANCE, LENGTH_TOLERANCE):
            assert length(16000 + off) == 16000 + off + before + after
        for off in (-LENGTH_TOLERANCE - 1, LENGTH_TOLERANCE + 1):
            message = f"n_frames says {16000 + off} samples .* {audio} has 16000"
            with pytest.raises(ManifestError, match=message):
                length(16000 + off)

    def test_edges_within_the_speech_are_left_out(self, recording):
        wave = read(recording, plan_of(-300, -200), "talk.wav:16000:16000")
        np.testing.assert_allclose(wave, recording[1][16300:31800], atol=1e-6)

    def test_files_of_other_rates_give_as_many_samples_as_planned(self, tmp_path):
        tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(3 * 44100) / 44100)
        soundfile.write(tmp_path / "high.wav", tone, 44100)
        audio = ["high.wav:44100:22050", "high.wav:88200:22050"]
        plan = Plan(*(np.array([value] * 2) for value in (1234, 777, 0.0, np.nan, False)))
        for index in range(2):
            wave = read_varied(
                audio[index],
                str(tmp_path),
                8000,
                plan,
                Surroundings(audio),
                index,
                np.random.default_rng(0),
            )
            assert wave.shape == (10011,) and wave.dtype == np.float32

    def test_gain_is_in_decibels_and_clips(self, recording):
        _, ramp = recording
        quiet = read(recording, plan_of(0, 0, gain=-20.0), "talk.wav:16000:16000")
        np.testing.assert_allclose(quiet, ramp[16000:32000] / 10, atol=1e-6)
        loud = read(recording, plan_of(0, 0, gain=20.0), "talk.wav:64000:16000")
        assert loud.max() == 1.0

    def test_noise_is_as_far_below_the_speech_as_planned(self, recording):
        _, ramp = recording
        noisy = read(recording, plan_of(0, 0, snr=20.0), "talk.wav:16000:16000")
        speech = ramp[16000:32000]
        ratio = np.sqrt(np.mean(speech**2) / np.mean((noisy - speech) ** 2))
        assert 20 * np.log10(ratio) == pytest.approx(20, abs=0.1)

    def test_a_telephone_lets_nothing_above_4_khz_through(self, tmp_path):
        time = np.arange(2 * RATE) / RATE
        both = 0.2 * np.sin(2 * np.pi * 1000 * time) + 0.2 * np.sin(2 * np.pi * 6000 * time)
        soundfile.write(tmp_path / "talk.wav", both, RATE, subtype="FLOAT")
        wave = read((tmp_path, both), plan_of(0, 0, telephone=True), "talk.wav:0:32000")
        power = np.abs(np.fft.rfft(wave)) ** 2
        assert power[12000] < 1e-4 * power[2000]  # half a Hz a bin


def test_noise_has_unit_power_and_is_as_coloured_as_asked_for():
    for steepest in (0.0, 0.5, 1.0):
        slopes = []
        for seed in range(30):
            noise = coloured_noise(16000, np.random.default_rng(seed), steepest)
            assert noise.dtype == np.float32 and noise.std() == pytest.approx(1, abs=1e-3)
            low, high = np.split(np.abs(np.fft.rfft(noise))[64:4096] ** 2, [448])
            # 5.6 octaves and 3.2 octaves, whose centres are 3.5 octaves apart
            slopes.append(np.log2(low.mean() / high.mean()))
        assert max(slopes) == pytest.approx(2 * steepest * 3.3, abs=1.2)
        assert min(slopes) == pytest.approx(0, abs=0.8)


class TestJoining:
    def manifest(self, *audio):
        columns = ["id", "audio", "n_frames", "tgt_text"]
        columns += ["speaker", "src_text", "src_lang", "tgt_lang"]
        rows = [
            (f"s{k}", text, int(text.split(":")[2]), f"z{k}", "a", f"q{k}", "en", "de")
            for k, text in enumerate(audio)
        ]
        return pandas.DataFrame(rows, columns=columns)

    def test_neighbours_become_one_row(self):
        frame = self.manifest("a.wav:0:32000", "a.wav:40000:16000")
        joined = with_joined(frame, 1)
        assert len(joined) == 3 and joined.iloc[:2].equals(frame)
        row = joined.iloc[2]
        assert (row["id"], row["audio"], row["n_frames"]) == ("s0+s1", "a.wav:0:56000", 56000)
        assert (row["tgt_text"], row["src_text"]) == ("z0 z1", "q0 q1")

    @pytest.mark.parametrize("rate", [44100, 48000, 11025])
    def test_a_joined_row_is_as_long_as_its_audio(self, tmp_path, rate):
        soundfile.write(tmp_path / "a.wav", np.zeros(20 * rate, np.int16), rate)
        # A short one first, whose rounded length says the rate badly.
        short, second = rate // 3 + 1, 18 * rate
        frame = self.manifest(f"a.wav:0:{short}", f"a.wav:{rate}:{second}")
        frame["n_frames"] = [resampled_length(frames, rate) for frames in (short, second)]
        row = with_joined(frame, 1, str(tmp_path)).iloc[2]
        assert row["n_frames"] == len(read_audio(row["audio"], tmp_path)) == 19 * RATE

    def test_without_the_recordings_the_length_is_nearly_right(self):
        frame = self.manifest("gone.wav:0:15000", "gone.wav:44100:793800")
        frame["n_frames"] = [resampled_length(frames, 44100) for frames in (15000, 793800)]
        assert with_joined(frame, 1).iloc[2]["n_frames"] == pytest.approx(19 * RATE, abs=8)

    def test_what_no_cutter_would_join_stays_apart(self):
        frame = self.manifest(
            "a.wav:0:16000",
            "a.wav:100000:16000",  # seconds later
            "b.wav:0:16000",  # another recording
            "b.wav:20000:400000",  # too long together
            "c.wav:0:16000",
        )
        assert len(with_joined(frame, 1)) == len(frame)

    def test_the_share_is_of_all_segments_and_the_same_each_time(self):
        frame = self.manifest(*(f"a.wav:{20000 * k}:16000" for k in range(100)))
        joined = with_joined(frame, 0.2)
        assert len(joined) == 120 and joined.equals(with_joined(frame, 0.2))
        with pytest.raises(ConfigError, match="--join-segments is 2, expected 0"):
            with_joined(frame, 2)
