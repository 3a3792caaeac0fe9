import itertools

import numpy as np
import pytest
from scipy import signal

from cress_svcd.data.augmentation.rooms import SPEED_OF_SOUND, draw_room, impulse_response

RATE = 16_000
SIZE, SPEAKER, MICROPHONE = (
    np.array([5.0, 4.0, 3.0]),
    np.array([1.0, 1.5, 1.2]),
    np.array([3, 2, 1.6]),
)


def test_direct_sound_and_first_reflections():
    """Those of the six walls, by mirroring the speaker at each."""
    response = impulse_response(SIZE, SPEAKER, MICROPHONE, absorption=0.36, seconds=0.02)
    direct = np.linalg.norm(SPEAKER - MICROPHONE)
    expected = np.zeros(len(response) + 1)
    for axis, wall in itertools.product(range(3), (0.0, 1.0)):
        image = SPEAKER.copy()
        image[axis] = 2 * wall * SIZE[axis] - image[axis]
        distance = np.linalg.norm(image - MICROPHONE)
        expected[round((distance - direct) / SPEED_OF_SOUND * RATE)] += 0.8 * direct / distance
    assert response[0] == pytest.approx(1)
    for place in np.flatnonzero(expected):
        assert response[place] >= expected[place] - 1e-9
    first = np.flatnonzero(response[1:])[0] + 1
    assert first == np.flatnonzero(expected)[0]
    assert response[first] == pytest.approx(expected[first])


def test_walls_that_take_everything_reflect_nothing():
    assert impulse_response(SIZE, SPEAKER, MICROPHONE, absorption=1.0)[1:].max(initial=0) == 0


def test_it_decays_as_sabine_and_eyring_say():
    """The slope of the energy that is still to come, against Eyring's reverberation time."""
    absorption = 0.3
    response = impulse_response(SIZE, SPEAKER, MICROPHONE, absorption, seconds=0.3)
    # All images have one sign: what they add up to below speech is no sound of the room.
    high = signal.sosfilt(signal.butter(4, 300, "highpass", fs=RATE, output="sos"), response)
    energy = np.cumsum(high[::-1] ** 2)[::-1]
    levels = 10 * np.log10(energy / energy[0])
    start, stop = (int(np.argmax(levels < level)) for level in (-5, -20))
    measured = 60 / 15 * (stop - start) / RATE
    surface = 2 * (5 * 4 + 5 * 3 + 4 * 3)
    eyring = 0.161 * 60 / (-surface * np.log(1 - absorption))
    assert measured == pytest.approx(eyring, rel=0.35)


def test_rooms_differ():
    rooms = [draw_room(np.random.default_rng(seed)) for seed in range(8)]
    assert all(room[0] >= 1 and len(room) <= 4801 and np.isfinite(room).all() for room in rooms)
    assert len({room.tobytes() for room in rooms}) == 8
