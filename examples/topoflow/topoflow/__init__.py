"""A compact transformer for air-quality forecasts, and TopoFlow, its elevation-aware successor."""
