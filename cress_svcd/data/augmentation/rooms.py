"""What a rectangular room answers to a sound, by the image-source method.

Each reflection is the sound of a mirrored source: Allen and Berkley, Image method for efficiently
simulating small-room acoustics, 1979.
"""

import numpy as np

from cress_svcd.data.audio import SAMPLE_RATE

SPEED_OF_SOUND = 343.0  # m/s
SIZES = ((2.5, 9.0), (2.5, 7.0), (2.3, 3.5))  # m
ABSORPTIONS = (0.15, 0.7)  # share of the energy that a wall takes
WALL_DISTANCE = 0.3  # m, of speaker and microphone
LONGEST_SECONDS = 0.3


def draw_room(random: np.random.Generator) -> np.ndarray:
    """The impulse response of some room, with speaker and microphone somewhere in it."""
    size = np.array([random.uniform(*each) for each in SIZES])
    speaker, microphone = (random.uniform(WALL_DISTANCE, size - WALL_DISTANCE) for _ in range(2))
    return impulse_response(size, speaker, microphone, random.uniform(*ABSORPTIONS))


def impulse_response(
    size: np.ndarray,
    speaker: np.ndarray,
    microphone: np.ndarray,
    absorption: float,
    seconds: float = LONGEST_SECONDS,
) -> np.ndarray:
    """Float64 of shape (samples,); begins with the direct sound, which has amplitude 1.

    Args:
        size, speaker, microphone: (3,), in m; the room has a corner at 0.
        absorption: share of the energy that each wall takes, 0 to 1.
        seconds: of the response.
    """
    reflection = np.sqrt(1 - absorption)
    reach = SPEED_OF_SOUND * seconds
    offsets, bounces = zip(*(_images(*axis, reach) for axis in zip(size, speaker, microphone)))
    x, y, z = np.ix_(*(offset**2 for offset in offsets))
    distance = np.sqrt(x + y + z)
    count = np.add.outer(np.add.outer(bounces[0], bounces[1]), bounces[2])
    direct = float(np.linalg.norm(speaker - microphone))
    heard = distance - direct < reach
    # Nearer than that, the direct sound would be all that is heard.
    distance, count = np.maximum(distance[heard], 0.1), count[heard]
    amplitude = max(direct, 0.1) * reflection**count / distance
    delay = np.maximum(0, np.rint((distance - direct) / SPEED_OF_SOUND * SAMPLE_RATE)).astype(int)
    return np.bincount(delay, amplitude)


def _images(
    length: float, speaker: float, microphone: float, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Along an axis: from the microphone to the images of the speaker, and by how many walls they
    are mirrored."""
    most = int(np.ceil(reach / (2 * length))) + 1
    rooms = np.arange(-most, most + 1)
    offsets = [2 * rooms * length + side * speaker - microphone for side in (1, -1)]
    bounces = [np.abs(2 * rooms), np.abs(2 * rooms - 1)]
    return np.concatenate(offsets), np.concatenate(bounces)
