"""Simulates a fortnight of a small shop, a row for every other minute, and prints it as CSV.

    python3 examples/training/simulate.py >examples/training/incidents.csv

What it simulates, all invented:

- Calm: a container restarts now and then. With a risk window of 60 s a minute's rows have 0.7 anomalies on average.
- Rollouts: four times a day, for 15 minutes, restarts and lost readiness pile up (5 on average). That is no incident.
- Incidents: about once a day something breaks for 10 to 60 minutes. Its anomalies (12 on average) rise over the first
  ten minutes, so that its first rows look calm.
- Labels are by hand: one incident in ten is overlooked.

The seed fixes everything; only random() is used, which gives the same numbers in every version of Python.
"""
import math
import random

SEED = 15
DAYS = 14
random.seed(SEED)


def poisson(mean):
    """A number of independent events, by inversion."""
    left, count, probability = random.random(), 0, math.exp(-mean)
    while left > probability:
        left -= probability
        count += 1
        probability *= mean / count
    return count


incidents = []
for day in range(DAYS):
    if random.random() < 0.9:
        start = day * 1440 + int(random.random() * 1380)
        length = 10 + int(random.random() * 51)
        overlooked = random.random() < 0.1
        incidents.append((start, start + length, overlooked))

print("day,minute,anoms,label")
for now in range(0, DAYS * 1440, 2):
    mean, label = 0.7, 0
    if now % 360 < 15:
        mean = 5.0
    for start, end, overlooked in incidents:
        if start <= now < end:
            mean = 12.0 * min(1.0, (now - start + 2) / 10)
            label = 0 if overlooked else 1
    print(f"{now // 1440 + 1},{now % 1440},{poisson(mean)},{label}")
