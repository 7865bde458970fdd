"""Fetching published data sets from their official addresses and laying them out as their readers expect."""
