"""Speech made to sound otherwise in every epoch of a training, so that it hears more voices."""
