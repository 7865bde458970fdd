"""Download of published data sets from their official addresses, in the layout that their readers expect."""
