"""The 15 variables of a sample, in their order, and the 6 of them that are forecast."""

VARIABLES = {  # name -> unit, in the order of the channels
    "wind_u": "m/s, eastward",
    "wind_v": "m/s, northward",
    "temperature": "K",
    "humidity": "%",
    "pressure": "hPa, at the ground",
    "pm25": "ug/m3",
    "pm10": "ug/m3",
    "so2": "ug/m3",
    "no2": "ug/m3",
    "co": "ug/m3",
    "o3": "ug/m3",
    "elevation": "m",
    "latitude": "degrees north",
    "longitude": "degrees east",
    "population": "people/km2",
}
POLLUTANTS = ("pm25", "pm10", "so2", "no2", "co", "o3")
# The networks have an output for each of the 15 all the same, since that is what the checkpoints have.
TARGETS = tuple(list(VARIABLES).index(name) for name in POLLUTANTS)
