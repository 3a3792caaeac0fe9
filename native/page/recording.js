// A file as samples, by the browser's own decoders.

const RATE = 16000;

export async function decode(file) {
  const bytes = await file.arrayBuffer().catch(() => {
    throw new Error(`${file.name} cannot be read: it has changed or is gone; choose it again.`);
  });
  const sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes).catch(() => {
    throw new Error(`${file.name} holds no sound that this browser can read: choose a WAV, FLAC, MP3, Ogg or MP4 file with sound.`);
  });
  if (!sound.length) throw new Error(`${file.name} holds no sound: its length is 0 s. Choose another recording.`);
  return { samples: interleave(sound), channels: sound.numberOfChannels, rate: RATE };
}

/** Frame after frame, as the engine mixes them. */
function interleave(sound) {
  const channels = sound.numberOfChannels;
  if (channels === 1) return sound.getChannelData(0).slice();
  const samples = new Float32Array(channels * sound.length);
  for (let channel = 0; channel < channels; channel++)
    sound.getChannelData(channel).forEach((sample, frame) => { samples[channels * frame + channel] = sample; });
  return samples;
}
